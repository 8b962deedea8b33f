//! Names for what a unit may lack.

use iommu_core::hw::Capability;

macro_rules! names {
    ($($name:ident = $text:literal, $field:literal;)*) => { $(
        #[doc = concat!($text, ", reported by `", $field, "`.")]
        pub const $name: Capability = Capability { name: $text, field: $field };
    )* };
}

names! {
    STAGE_1 = "stage-1 translation", "SMMU_IDR0.S1P";
    STAGE_2 = "stage-2 translation", "SMMU_IDR0.S2P";
    AARCH64_TABLES = "AArch64 page tables", "SMMU_IDR0.TTF";
    LITTLE_ENDIAN_TABLES = "little-endian page tables", "SMMU_IDR0.TTENDIAN";
    TERMINATED_FAULTS = "faults that terminate the access", "SMMU_IDR0.STALL_MODEL";
    DIRTY_TRACKING = "hardware updates of dirty state", "SMMU_IDR0.HTTU";
    COHERENT_WALKS = "coherent accesses to tables", "SMMU_IDR0.COHACC";
    NESTING = "nested translation that works", "SMMU_IIDR";
    COMMAND_QUEUE = "a command queue of two entries", "SMMU_IDR1.CMDQS";
    ANY_QUEUE_ADDRESS = "queues at any address", "SMMU_IDR1.QUEUES_PRESET";
    ANY_TABLE_ADDRESS = "a stream table at any address", "SMMU_IDR1.TABLES_PRESET";
    ATS = "address translation services", "SMMU_IDR0.ATS";
    SUBSTREAMS = "substreams", "SMMU_IDR1.SSIDSIZE";
    PASID_WIDTH = "PASIDs of so many bits", "SMMU_IDR1.SSIDSIZE";
    GRANULE_4K = "the 4 KiB granule", "SMMU_IDR5.GRAN4K";
    GRANULE_16K = "the 16 KiB granule", "SMMU_IDR5.GRAN16K";
    GRANULE_64K = "the 64 KiB granule", "SMMU_IDR5.GRAN64K";
}
