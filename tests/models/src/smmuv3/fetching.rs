//! What a test chooses of how structures are fetched, and how long they are kept.

use super::dma::FetchHook;
use super::model::Model;
use super::walk::Order;

impl Model {
    /// From now on the words of STEs and CDs are fetched in this order.
    pub fn set_order(&self, order: Order) {
        self.lock().set_order(order);
    }

    /// Sets or removes what is called after each word that was fetched; see [`FetchHook`].
    pub fn on_fetch(&self, hook: Option<FetchHook>) {
        self.lock().set_fetch_hook(hook);
    }

    /// From now on each cache loses an entry at every `one_in`th request or so, as `seed` has it. Zero: never.
    ///
    /// Eviction is what hardware may do at any moment; without it stale entries are held for ever.
    pub fn evict(&self, seed: u64, one_in: usize) {
        self.lock().set_evict(seed, one_in);
    }

    /// Whether contiguous groups are kept leaf by leaf from now on, and not as one translation.
    pub fn split_groups(&self, split: bool) {
        self.lock().split_groups(split);
    }
}
