//! Names for what a unit may lack.

use iommu_core::hw::Capability;

macro_rules! names {
    ($($name:ident = $text:literal, $field:literal;)*) => { $(
        #[doc = concat!($text, ", reported by `", $field, "`.")]
        pub const $name: Capability = Capability { name: $text, field: $field };
    )* };
}

names! {
    DMA_TRANSLATION = "DMA translation", "CAP.SAGAW";
    SCALABLE_MODE = "scalable mode", "ECAP.SMTS";
    QUEUED_INVALIDATION = "queued invalidation", "ECAP.QI";
    REGISTER_INVALIDATION = "register-based invalidation", "VER.MAX";
    FIRST_STAGE = "first-stage translation", "ECAP.FSTS";
    SECOND_STAGE = "second-stage translation", "ECAP.SSTS";
    SECOND_STAGE_WIDTH = "a second stage of 3, 4 or 5 levels", "CAP.SAGAW";
    PASS_THROUGH = "pass-through", "ECAP.PT";
    NESTING = "nested translation", "ECAP.NEST";
    ROOT_POINTER_INVALIDATES = "a root pointer that invalidates by itself", "CAP.ESRTPS";
    ABORT_MODE = "abort-DMA mode", "ECAP.ADMS";
    PASIDS = "requests with PASID", "ECAP.PASID";
    PASID_WIDTH = "PASIDs of that width", "ECAP.PSS";
    RID_PASID = "a PASID of choice for requests without one", "ECAP.RPS";
    DIRTY_TRACKING = "accessed and dirty bits of the second stage", "ECAP.SSADS";
    PAGE_WALK_SNOOP = "page walks that snoop the caches", "ECAP.SMPWCS";
    SNOOP_CONTROL = "snoop control", "ECAP.SC";
    SUPERVISOR_REQUESTS = "supervisor requests", "ECAP.SRS";
    EXTENDED_ACCESSED = "extended accessed flags", "ECAP.EAFS";
    FIVE_LEVELS = "a first stage of 5 levels", "CAP.FS5LP";
    EXTENDED_INTERRUPTS = "interrupts of its own to APIC ids of more than 8 bits", "ECAP.EIM";
    DEVICE_TLBS = "device TLBs", "ECAP.DT";
}
