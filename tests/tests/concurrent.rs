//! Several CPUs in the core at once: the orders of what they do that a scheduler tries, see [`explore`] for where they may
//! change places; and real threads.
//!
//! Debug builds check the order of locks all the while, and that none is held where the embedder is called. The mocks
//! check pins, maps, unmaps and what devices reach.

#[path = "concurrent/accesses.rs"]
mod accesses;
#[path = "concurrent/areas.rs"]
mod areas;
#[path = "concurrent/devices.rs"]
mod devices;
#[path = "concurrent/domains.rs"]
mod domains;
#[path = "concurrent/explore.rs"]
mod explore;
#[path = "concurrent/meeting.rs"]
mod meeting;
#[path = "concurrent/owners.rs"]
mod owners;
#[path = "concurrent/serial.rs"]
mod serial;
#[path = "concurrent/threads.rs"]
mod threads;
#[path = "concurrent/world.rs"]
mod world;
