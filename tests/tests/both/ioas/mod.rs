//! The address space over real drivers: several domains on one and on two units are kept alike, whatever fails, and what
//! hardware did not confirm stays taken.

mod domains;
mod hung;
mod maps;

use iommu_core::Error;
use iommu_core::hw::Prot;
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{AreaInfo, Ioas, IoasConfig};
use iommu_tests::bench::extent;
use iommu_tests::house::{Driver, House, Refusal};
use iommu_tests::spaces::{areas, map_fixed};

/// What a stream of a domain meets where nothing is mapped.
const NOTHING: Result<u64, Refusal> = Err(Refusal::NotMapped);

/// One unit with one domain, one with two, two units, and two with three domains.
const LAYOUTS: [(usize, &[usize]); 4] = [(1, &[0]), (1, &[0, 0]), (2, &[0, 1]), (2, &[0, 1, 0])];

/// An address space whose domains lie on the units `at`; each domain has one stream attached.
struct Space<D: Driver> {
    houses: Vec<House<D>>,
    ioas: Ioas,
    domains: Vec<(usize, Hwpt)>,
}

/// The stream of a domain by its number.
const fn stream_of(number: usize) -> u32 {
    number as u32 * 8
}

impl<D: Driver> Space<D> {
    fn new(case: &D::Case, units: usize, at: &[usize]) -> Self {
        let houses = (0..units).map(|_| House::up(case)).collect();
        let mut space = Self { houses, ioas: Ioas::new(IoasConfig::default()).unwrap(), domains: Vec::new() };
        at.iter().for_each(|unit| assert!(space.join(*unit).is_ok()));
        space
    }

    fn name(&self) -> &str {
        self.houses[0].name()
    }

    /// Adds a domain on a unit, with a stream of its own.
    fn join(&mut self, unit: usize) -> Result<u32, Error> {
        let hwpt = self.add(unit)?;
        let id = stream_of(self.domains.len());
        self.houses[unit].attach(id, hwpt.domain());
        self.domains.push((unit, hwpt));
        Ok(id)
    }

    /// A domain on a unit.
    fn add(&self, unit: usize) -> Result<Hwpt, Error> {
        let house = &self.houses[unit];
        Hwpt::new(&self.ioas, &house.handle(), HwptConfig::new(house.kind.stage))
    }

    fn map(&self, iova: u64, phys: u64, len: u64) -> Result<(), Error> {
        map_fixed(&self.ioas, iova, &[extent(phys, len)], Prot::READ_WRITE)
    }

    /// Every domain's stream is given the same.
    #[track_caller]
    fn expect(&self, iova: u64, expected: Result<u64, Refusal>) {
        for (number, (unit, _)) in self.domains.iter().enumerate() {
            self.houses[*unit].expect(stream_of(number), iova, expected);
        }
    }

    fn in_use(&self) -> Vec<usize> {
        self.houses.iter().map(|house| house.memory.in_use()).collect()
    }

    #[track_caller]
    fn check(&self) {
        self.houses.iter().for_each(House::check);
    }

    /// Nothing is lost when all handles go.
    #[track_caller]
    fn end(self) {
        let Self { houses, ioas, domains } = self;
        drop((ioas, domains));
        houses.iter().for_each(House::check_empty);
    }
}

/// Whether every area is.
fn draining(ioas: &Ioas) -> bool {
    areas(ioas).iter().all(|area: &AreaInfo| area.draining)
}

fn spaces<D: Driver>() -> impl Iterator<Item = Space<D>> {
    D::cases().into_iter().flat_map(|case| LAYOUTS.map(|(units, at)| Space::new(&case, units, at)))
}
