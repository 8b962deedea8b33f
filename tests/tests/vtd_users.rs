//! A stream counts among the users of a domain from before its entry can be followed until hardware has confirmed that it
//! forgot it: what is taken out of the domain after any store in between is out of reach once that is confirmed.

use iommu_core::addr::Iova;
use iommu_core::hw::{Domain, DomainConfig, Target, Unit as _};
use iommu_hal::mem::ENTRIES;
use iommu_models::memory::TestMemory;
use iommu_models::vtd::Model;
use iommu_tests::bench::{config_for, map, memory, stream, unmap};
use iommu_tests::case::Case;
use iommu_tests::hooked::{Hooked, at_store};
use iommu_vtd::{Structure, Unit};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

const RED: u16 = 0x0108;
const PAGE: u64 = 0x1000;
/// Pages of a domain: more than an operation makes stores to structures and cleans.
const PAGES: u64 = 128;

struct Scene {
    case: Case,
    model: Arc<Model>,
    memory: Arc<TestMemory>,
    unit: Unit<Hooked, Arc<Model>>,
    domains: [Rc<Box<dyn Domain>>; 2],
}

/// The first byte of what a domain leads to.
const fn first(domain: usize) -> u64 {
    (domain as u64 + 1) << 36
}

fn scene(case: Case) -> Scene {
    let memory = memory(case.non_coherent);
    let model = Arc::new(Model::new(case.config, memory.clone()));
    let unit = Unit::bring_up(Hooked(memory.clone()), model.clone(), config_for(&case.config)).expect("a unit");
    let domains = [0, 1].map(|number| {
        let domain = unit.create_domain(&DomainConfig::new(case.stage)).expect("a domain");
        map(&*domain, 0, first(number), PAGES * PAGE);
        Rc::new(domain)
    });
    Scene { case, model, memory, unit, domains }
}

impl Scene {
    fn attach(&self, domain: usize) {
        self.unit.attach(stream(RED), Target::Paging(&**self.domains[domain])).expect("an attach");
    }

    /// After each store of `operation` to structures another page of `domain` is made use of and taken out. Returns how
    /// often the page was within reach before.
    fn takes_out_meanwhile(&self, domain: usize, operation: impl FnOnce(&Self)) -> usize {
        // Stores to the queue are made under a lock that a flush takes.
        let mut queue = Vec::new();
        self.unit.for_each_structure(|structure, frame| {
            if matches!(structure, Structure::Queue | Structure::QueueStatus) {
                queue.push(frame.get());
            }
        });
        let (model, taken, name) = (self.model.clone(), self.domains[domain].clone(), self.case.name.clone());
        let (pages, found) = (Cell::new(0), Rc::new(Cell::new(0)));
        let count = found.clone();
        at_store(Some(Box::new(move |at| {
            if queue.contains(&(at.get() & !(ENTRIES as u64 * 8 - 1))) {
                return;
            }
            let page = pages.replace(pages.get() + 1);
            assert!(page < PAGES, "{name}: {page} stores");
            let reaches = || {
                let reached = model.dma(RED, None, Iova::new(page * PAGE), 1, true);
                reached.is_ok_and(|extents| extents[0].start.get() == first(domain) + page * PAGE)
            };
            count.set(count.get() + usize::from(reaches()));
            unmap(&**taken, page * PAGE, PAGE);
            assert!(!reaches(), "{name}: within reach after store {page}, though taken out");
        })));
        operation(self);
        at_store(None);
        assert_eq!(self.model.violations(), [], "{}", self.case.name);
        assert_eq!(self.memory.take_stale_reads(), [], "{}", self.case.name);
        found.get()
    }
}

#[test]
fn a_stream_is_a_user_before_its_entry_can_be_followed() {
    // In caching mode the lack of an entry that is looked for early hides the entry until the attach is over.
    for case in Case::plain() {
        let scene = scene(case);
        let found = scene.takes_out_meanwhile(0, |scene| scene.attach(0));
        assert!(found > 0, "{}: it was never within reach", scene.case.name);
    }
}

#[test]
fn a_stream_is_a_user_until_hardware_has_forgotten_its_entry() {
    for case in Case::all() {
        // Replaced, and blocked.
        let [replaced, blocked] = [true, false].map(|replaced| {
            let scene = scene(case.clone());
            scene.attach(0);
            // All of them are cached.
            for page in 0..PAGES {
                scene.model.dma(RED, None, Iova::new(page * PAGE), 1, true).expect("its page");
            }
            scene.takes_out_meanwhile(0, |scene| {
                if replaced {
                    scene.attach(1);
                } else {
                    scene.unit.detach(stream(RED)).expect("a detach");
                }
            })
        });
        assert!(replaced > 0 && blocked > 0, "{}: it was never within reach", case.name);
    }
}
