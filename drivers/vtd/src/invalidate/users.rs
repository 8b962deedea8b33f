//! The streams that lead to a domain.

use super::User;
use alloc::boxed::Box;
use iommu_alloc::try_box;
use iommu_core::hw::{HwError, Pasid, RequesterId};

/// A user's place among the users of a domain. It moves from one domain to another without memory being needed.
#[derive(Debug)]
pub struct Seat(Box<Node>);

#[derive(Debug)]
struct Node {
    user: User,
    next: Option<Box<Node>>,
}

impl Seat {
    /// A place for `user`.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`].
    pub fn new(user: User) -> Result<Self, HwError> {
        try_box(Node { user, next: None }).map(Self).ok_or(HwError::OutOfMemory)
    }
}

/// Users of a domain, in the order of requesters and PASIDs.
#[derive(Debug, Default)]
pub struct Users {
    first: Option<Box<Node>>,
}

impl Users {
    /// No users.
    pub const fn new() -> Self {
        Self { first: None }
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = User> + '_ {
        core::iter::successors(self.first.as_deref(), |node| node.next.as_deref()).map(|node| node.user)
    }

    /// One more.
    pub fn add(&mut self, mut seat: Seat) {
        let key = |user: &User| (user.source, user.pasid);
        let mut at = &mut self.first;
        while at.as_ref().is_some_and(|node| key(&node.user) < key(&seat.0.user)) {
            // The loop's condition has seen it.
            let Some(node) = at else { break };
            at = &mut node.next;
        }
        seat.0.next = at.take();
        *at = Some(seat.0);
    }

    /// One less; its place is given back.
    pub fn remove(&mut self, source: RequesterId, pasid: Option<Pasid>) -> Option<Seat> {
        let mut at = &mut self.first;
        while at.as_ref().is_some_and(|node| (node.user.source, node.user.pasid) != (source, pasid)) {
            let Some(node) = at else { break };
            at = &mut node.next;
        }
        let mut node = at.take()?;
        *at = node.next.take();
        Some(Seat(node))
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        // One by one: a long chain must not be dropped recursively.
        let mut next = self.first.take();
        while let Some(mut node) = next {
            next = node.next.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn user(source: u16, pasid: Option<u32>) -> User {
        User { source: RequesterId::new(source), pasid: pasid.and_then(Pasid::new), index: 0, tlb: None }
    }

    #[test]
    fn users_are_in_order_and_leave_their_seat() {
        let mut users = Users::new();
        for (source, pasid) in [(2, None), (1, Some(7)), (1, None), (3, None), (1, Some(3))] {
            users.add(Seat::new(user(source, pasid)).unwrap());
        }
        let seen = |users: &Users| users.iter().map(|user| (user.source.get(), user.pasid)).collect::<Vec<_>>();
        let (three, seven) = (Pasid::new(3), Pasid::new(7));
        assert_eq!(seen(&users), [(1, None), (1, three), (1, seven), (2, None), (3, None)]);
        let seat = users.remove(RequesterId::new(1), three).unwrap();
        assert!(users.remove(RequesterId::new(1), three).is_none());
        assert_eq!(seen(&users), [(1, None), (1, seven), (2, None), (3, None)]);
        users.add(seat);
        assert_eq!(seen(&users)[1], (1, three));
    }
}
