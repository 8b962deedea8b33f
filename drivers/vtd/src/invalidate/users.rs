//! The streams that lead to a domain, or to a guest's first stage on top of it.

use super::{Tag, User};
use crate::spec::invalidation::TlbTarget;
use alloc::boxed::Box;
use core::cmp::Ordering;
use iommu_alloc::try_box;
use iommu_core::hw::{HwError, Pasid, RequesterId};

/// A user's place among the users of a domain. It moves from one domain to another without memory being needed.
#[derive(Debug)]
pub struct Seat(Box<Node>);

#[derive(Debug)]
struct Node {
    user: User,
    /// Of what it leads to; anything as long as the seat is with nobody.
    tag: Tag,
    next: Option<Box<Node>>,
}

/// What tells users apart, and their order.
type Key = (RequesterId, Option<Pasid>, u16);

impl Node {
    fn key(&self) -> Key {
        key(self.user, self.tag)
    }
}

fn key(user: User, tag: Tag) -> Key {
    (user.source, user.pasid, tag.domain_id())
}

impl Seat {
    /// A place for `user`.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`].
    pub fn new(user: User) -> Result<Self, HwError> {
        try_box(Node { user, tag: Tag::Domain(0), next: None }).map(Self).ok_or(HwError::OutOfMemory)
    }
}

/// Users of a domain and of everything on top of it, in the order of requesters, PASIDs and domain ids.
#[derive(Debug, Default)]
pub struct Users {
    first: Option<Box<Node>>,
    /// Some lead to what has another tag than others; may stay set when those are gone, until all are.
    mixed: bool,
    /// Some have a device TLB; may stay set as well.
    tlbs: bool,
}

impl Users {
    /// No users.
    pub const fn new() -> Self {
        Self { first: None, mixed: false, tlbs: false }
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = User> + '_ {
        self.tagged().map(|(user, _)| user)
    }

    /// Each of them, in order, and the tag of what it leads to.
    pub fn tagged(&self) -> impl Iterator<Item = (User, Tag)> + '_ {
        core::iter::successors(self.first.as_deref(), |node| node.next.as_deref()).map(|node| (node.user, node.tag))
    }

    /// Each of those that lead to what has this tag, in order.
    pub fn of(&self, tag: Tag) -> impl Iterator<Item = User> + '_ {
        self.tagged().filter(move |(_, held)| *held == tag).map(|(user, _)| user)
    }

    /// Each of those that lead to what has another tag, with that. Looks at no more than one where all have the same.
    pub fn beside(&self, tag: Tag) -> impl Iterator<Item = (User, Tag)> + '_ {
        let none = !self.mixed && self.first.as_ref().is_none_or(|node| node.tag == tag);
        self.tagged().take(if none { 0 } else { usize::MAX }).filter(move |(_, held)| *held != tag)
    }

    /// Each of those that have a device TLB, with the tag of what they lead to. Looks at none where none has.
    pub fn with_tlb(&self) -> impl Iterator<Item = (User, Tag)> + '_ {
        self.tagged().take(if self.tlbs { usize::MAX } else { 0 }).filter(|(user, _)| user.tlb.is_some())
    }

    /// One more, which leads to what has this tag.
    pub fn add(&mut self, tag: Tag, mut seat: Seat) {
        seat.0.tag = tag;
        self.mixed |= self.first.as_ref().is_some_and(|node| node.tag != tag);
        self.tlbs |= seat.0.user.tlb.is_some();
        let mut at = &mut self.first;
        while at.as_ref().is_some_and(|node| node.key() < seat.0.key()) {
            // The loop's condition has seen it.
            let Some(node) = at else { break };
            at = &mut node.next;
        }
        seat.0.next = at.take();
        *at = Some(seat.0);
    }

    /// From now on the users of `source` have this device TLB.
    pub fn set_tlb(&mut self, source: RequesterId, tlb: Option<TlbTarget>) {
        self.tlbs |= tlb.is_some();
        let mut at = self.first.as_deref_mut();
        while let Some(node) = at {
            if node.user.source == source {
                node.user.tlb = tlb;
            }
            at = node.next.as_deref_mut();
        }
    }

    /// One less; its place is given back.
    pub fn remove(&mut self, tag: Tag, source: RequesterId, pasid: Option<Pasid>) -> Option<Seat> {
        let wanted = (source, pasid, tag.domain_id());
        let mut at = &mut self.first;
        while at.as_ref().is_some_and(|node| node.key().cmp(&wanted) == Ordering::Less) {
            let Some(node) = at else { break };
            at = &mut node.next;
        }
        if at.as_ref()?.key() != wanted {
            return None;
        }
        let mut node = at.take()?;
        *at = node.next.take();
        if self.first.is_none() {
            (self.mixed, self.tlbs) = (false, false);
        }
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

    const TAG: Tag = Tag::Domain(5);

    #[test]
    fn users_are_in_order_and_leave_their_seat() {
        let mut users = Users::new();
        for (source, pasid) in [(2, None), (1, Some(7)), (1, None), (3, None), (1, Some(3))] {
            users.add(TAG, Seat::new(user(source, pasid)).unwrap());
        }
        let seen = |users: &Users| users.iter().map(|user| (user.source.get(), user.pasid)).collect::<Vec<_>>();
        let (three, seven) = (Pasid::new(3), Pasid::new(7));
        assert_eq!(seen(&users), [(1, None), (1, three), (1, seven), (2, None), (3, None)]);
        let seat = users.remove(TAG, RequesterId::new(1), three).unwrap();
        assert!(users.remove(TAG, RequesterId::new(1), three).is_none());
        assert_eq!(seen(&users), [(1, None), (1, seven), (2, None), (3, None)]);
        users.add(TAG, seat);
        assert_eq!(seen(&users)[1], (1, three));
    }

    #[test]
    fn a_stream_has_one_place_under_each_tag() {
        let (mut users, nested) = (Users::new(), Tag::Domain(4));
        users.add(TAG, Seat::new(user(1, None)).unwrap());
        users.add(nested, Seat::new(user(1, None)).unwrap());
        assert_eq!(users.tagged().map(|(_, tag)| tag).collect::<Vec<_>>(), [nested, TAG]);
        assert_eq!((users.of(TAG).count(), users.of(nested).count()), (1, 1));
        // From one to the other.
        let seat = users.remove(TAG, RequesterId::new(1), None).unwrap();
        assert!(users.remove(TAG, RequesterId::new(1), None).is_none());
        assert_eq!((users.of(TAG).count(), users.of(nested).count()), (0, 1));
        users.add(TAG, seat);
        assert_eq!(users.of(TAG).count(), 1);
        // Whichever came first.
        let beside = |users: &Users, tag| users.beside(tag).map(|(_, tag)| tag).collect::<Vec<_>>();
        assert_eq!((beside(&users, TAG), beside(&users, nested)), (alloc::vec![nested], alloc::vec![TAG]));
        users.remove(TAG, RequesterId::new(1), None).unwrap();
        assert_eq!((beside(&users, TAG), beside(&users, nested)), (alloc::vec![nested], alloc::vec![]));
        users.remove(nested, RequesterId::new(1), None).unwrap();
        users.add(TAG, Seat::new(user(1, None)).unwrap());
        assert_eq!((beside(&users, TAG), beside(&users, nested)), (alloc::vec![], alloc::vec![TAG]));
    }

    #[test]
    fn those_with_a_device_tlb_are_found_however_they_got_it() {
        let tlb = TlbTarget { source: RequesterId::new(1), physical: None, queue_depth: 1 };
        let mut users = Users::new();
        users.add(TAG, Seat::new(user(1, None)).unwrap());
        users.add(TAG, Seat::new(user(2, None)).unwrap());
        assert_eq!(users.with_tlb().count(), 0);
        users.set_tlb(RequesterId::new(1), Some(tlb));
        assert_eq!(users.with_tlb().map(|(user, _)| user.source.get()).collect::<Vec<_>>(), [1]);
        users.set_tlb(RequesterId::new(1), None);
        assert_eq!(users.with_tlb().count(), 0);
        users.add(TAG, Seat::new(User { tlb: Some(tlb), ..user(3, None) }).unwrap());
        assert_eq!(users.with_tlb().count(), 1);
    }
}
