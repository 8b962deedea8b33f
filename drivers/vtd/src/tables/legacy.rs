//! Entries of legacy mode: a stream's own is its context entry (section 9.3).

use super::{Key, Tables, frame, write_entry};
use crate::spec::context::{LEGACY_CONTEXT_ENTRY_WORDS, LegacyContextEntry, LegacyContextWord0, LegacyTranslation};
use crate::spec::pasid::{PasidEntry, TranslationType};
use iommu_core::hw::{HwError, RequesterId};
use iommu_hal::Hal;

/// First word of a requester's entry in its context table, of which there is one a bus.
pub(super) fn context_word(source: RequesterId) -> usize {
    usize::from(source.devfn()) * LEGACY_CONTEXT_ENTRY_WORDS
}

/// What `entry` is in legacy mode, which has no first stage.
fn context_entry(entry: &PasidEntry, device_tlb: bool) -> Result<LegacyContextEntry, HwError> {
    let translation = match (entry.translation, device_tlb) {
        (TranslationType::SecondStage, false) => LegacyTranslation::SecondStage,
        (TranslationType::SecondStage, true) => LegacyTranslation::SecondStageAndDeviceTlb,
        (TranslationType::PassThrough, _) => LegacyTranslation::PassThrough,
        _ => return Err(HwError::Unsupported("a first stage in legacy mode")),
    };
    let (width, domain_id, second_stage) = (entry.width, entry.domain_id, entry.second_stage);
    Ok(LegacyContextEntry { translation, width, domain_id, second_stage })
}

impl<H: Hal + Clone> Tables<H> {
    /// Writes the entry of a stream, which is not present: the high word first, then the word with the present bit.
    pub(super) fn set_legacy(&mut self, key: Key, entry: &PasidEntry) -> Result<(), HwError> {
        let device_tlb = self.requester(key.source).is_some_and(|held| held.tlb_enabled);
        let words = context_entry(entry, device_tlb)?.words();
        write_entry(&frame(self.context(key.source)?)?, context_word(key.source), &words);
        Ok(())
    }

    /// Makes the entry of a stream not present, and leaves its other fields for hardware that has begun to use them.
    pub(super) fn clear_legacy(&self, key: Key) -> Result<(), HwError> {
        let (table, at) = (frame(self.context(key.source)?)?, context_word(key.source));
        let word0 = LegacyContextWord0::from(table.load(at));
        if word0.present() {
            table.publish(at, word0.with_present(false).into());
        }
        Ok(())
    }

    /// Lets requests of the device TLB through, or refuses them, by one store of the word that says so. Nothing to do where
    /// the requester leads nowhere; where hardware has not confirmed that yet, it may go by an entry that says otherwise,
    /// which counts as a change.
    pub(super) fn change_legacy(&mut self, source: RequesterId) -> Result<bool, HwError> {
        let key = Key { source, pasid: None };
        let Some(stream) = self.stream(key) else { return Ok(false) };
        if stream.draining {
            return Ok(true);
        }
        let device_tlb = self.requester(source).is_some_and(|held| held.tlb_enabled);
        let [word0, _] = context_entry(&stream.entry, device_tlb)?.words();
        let (table, at) = (frame(self.context(source)?)?, context_word(source));
        let changes = table.load(at) != word0;
        if changes {
            table.publish(at, word0);
        }
        Ok(changes)
    }
}
