//! Every operation of the core with the Nth allocation, the Nth call of a driver, the Nth pin failing, for every N: it
//! gives an error value, has changed nothing that can be seen, and succeeds the next time. Taking away needs no memory.
//!
//! An allocation that aborts instead of returning an error ends this whole test binary.

#[path = "fail_nth/areas.rs"]
mod areas;
#[path = "fail_nth/domains.rs"]
mod domains;
#[path = "fail_nth/ends.rs"]
mod ends;
#[path = "fail_nth/heap.rs"]
mod heap;
#[path = "fail_nth/objects.rs"]
mod objects;
#[path = "fail_nth/sweep.rs"]
mod sweep;
#[path = "fail_nth/trees.rs"]
mod trees;
#[path = "fail_nth/world.rs"]
mod world;
