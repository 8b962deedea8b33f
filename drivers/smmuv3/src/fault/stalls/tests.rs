//! Answers while the command queue is never left alone.

use crate::bring_up::Config;
use crate::unit::Unit;
use alloc::sync::Arc;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{PageResponse, ResponseCode, Stream, StreamId, Unit as _};
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::{self, Command, Model};

#[test]
fn answers_are_sent_where_others_are_always_at_the_queue() {
    let memory = Arc::new(TestMemory::new(PhysAddr::new(0x1_0000_0000), 256));
    let model = Arc::new(Model::new(smmuv3::Config::server(), memory.clone()));
    let unit = Unit::bring_up(memory, model.clone(), Config::default()).unwrap();
    let answers = || model.take_log().iter().filter(|it| matches!(it.command, Command::Resume { .. })).count();
    let stream = Stream::function(StreamId::new(8));
    // One CPU that is at the queue from first to last.
    let outer = unit.0.at_queue(|| {
        for group in 0..3 {
            unit.respond(&PageResponse { stream, group, code: ResponseCode::Success })?;
            assert_eq!(answers(), 0, "noted: this may be an interrupt on that very CPU");
            // Others come and go.
            unit.sync()?;
            assert_eq!(answers(), 1, "the next one that is out of the queue sends it");
        }
        unit.sync()
    });
    outer.unwrap();
    unit.sync().unwrap();
    assert_eq!(answers(), 0, "each once");
}
