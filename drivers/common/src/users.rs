//! The streams that lead to a domain, or to a guest's first stage on top of it.

use alloc::boxed::Box;
use core::cmp::Ordering;
use core::fmt::Debug;
use iommu_alloc::try_box;
use iommu_core::hw::{HwError, Pasid};

/// A stream that leads somewhere, as the invalidations of some hardware name it.
pub trait User: Copy + Debug {
    /// Who, without PASID.
    type Source: Copy + Ord + Debug;
    /// What hardware must know of a device TLB to invalidate it.
    type Tlb: Copy + Debug;
    /// How what is cached of a domain, or of a first stage on top of it, is told from the rest.
    type Tag: Copy + PartialEq + Debug;

    /// Who.
    fn source(&self) -> Self::Source;

    /// Its PASID; `None` for requests without one.
    fn pasid(&self) -> Option<Pasid>;

    /// The device TLB of its function, where it has one that may hold translations.
    fn tlb(&self) -> Option<Self::Tlb>;

    /// From now on its function has this device TLB.
    fn set_tlb(&mut self, tlb: Option<Self::Tlb>);

    /// A number that is another for each tag.
    fn number(tag: Self::Tag) -> u64;
}

/// A user's place among the users of a domain. It moves from one domain to another without memory being needed.
#[derive(Debug)]
pub struct Seat<U: User>(Box<Node<U>>);

#[derive(Debug)]
struct Node<U: User> {
    user: U,
    /// Of what it leads to; `None` as long as the seat is with nobody.
    tag: Option<U::Tag>,
    next: Option<Box<Node<U>>>,
}

/// What tells users apart, and their order.
type Key<U> = (<U as User>::Source, Option<Pasid>, Option<u64>);

impl<U: User> Node<U> {
    fn key(&self) -> Key<U> {
        (self.user.source(), self.user.pasid(), self.tag.map(U::number))
    }
}

impl<U: User> Seat<U> {
    /// A place for `user`.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`].
    pub fn new(user: U) -> Result<Self, HwError> {
        try_box(Node { user, tag: None, next: None }).map(Self).ok_or(HwError::OutOfMemory)
    }

    /// From now on its function has this device TLB. For a seat that was with nobody when the others were
    /// [told](Users::set_tlb).
    pub fn set_tlb(&mut self, tlb: Option<U::Tlb>) {
        self.0.user.set_tlb(tlb);
    }
}

/// Users of a domain and of everything on top of it, in the order of their sources, PASIDs and tags.
#[derive(Debug)]
pub struct Users<U: User> {
    first: Option<Box<Node<U>>>,
    /// Some lead to what has another tag than others; may stay set when those are gone, until all are.
    mixed: bool,
    /// Some have a device TLB; may stay set as well.
    tlbs: bool,
}

impl<U: User> Default for Users<U> {
    fn default() -> Self {
        Self::new()
    }
}

impl<U: User> Users<U> {
    /// No users.
    pub const fn new() -> Self {
        Self { first: None, mixed: false, tlbs: false }
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = U> + '_ {
        self.tagged().map(|(user, _)| user)
    }

    /// Each of them, in order, and the tag of what it leads to.
    pub fn tagged(&self) -> impl Iterator<Item = (U, U::Tag)> + '_ {
        let nodes = core::iter::successors(self.first.as_deref(), |node| node.next.as_deref());
        nodes.filter_map(|node| node.tag.map(|tag| (node.user, tag)))
    }

    /// Each of those that lead to what has this tag, in order.
    pub fn of(&self, tag: U::Tag) -> impl Iterator<Item = U> + '_ {
        self.tagged().filter(move |(_, held)| *held == tag).map(|(user, _)| user)
    }

    /// Each of those that lead to what has another tag, with that. Looks at no more than one where all have the same.
    pub fn beside(&self, tag: U::Tag) -> impl Iterator<Item = (U, U::Tag)> + '_ {
        let none = !self.mixed && self.first.as_ref().is_none_or(|node| node.tag == Some(tag));
        self.tagged().take(if none { 0 } else { usize::MAX }).filter(move |(_, held)| *held != tag)
    }

    /// Each of those that have a device TLB, with the tag of what they lead to. Looks at none where none has.
    pub fn with_tlb(&self) -> impl Iterator<Item = (U, U::Tag)> + '_ {
        self.tagged().take(if self.tlbs { usize::MAX } else { 0 }).filter(|(user, _)| user.tlb().is_some())
    }

    /// One more, which leads to what has this tag.
    pub fn add(&mut self, tag: U::Tag, mut seat: Seat<U>) {
        seat.0.tag = Some(tag);
        self.mixed |= self.first.as_ref().is_some_and(|node| node.tag != Some(tag));
        self.tlbs |= seat.0.user.tlb().is_some();
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
    pub fn set_tlb(&mut self, source: U::Source, tlb: Option<U::Tlb>) {
        self.tlbs |= tlb.is_some();
        let mut at = self.first.as_deref_mut();
        while let Some(node) = at {
            if node.user.source() == source {
                node.user.set_tlb(tlb);
            }
            at = node.next.as_deref_mut();
        }
    }

    /// One less; its place is given back.
    pub fn remove(&mut self, tag: U::Tag, source: U::Source, pasid: Option<Pasid>) -> Option<Seat<U>> {
        let wanted = (source, pasid, Some(U::number(tag)));
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

impl<U: User> Drop for Users<U> {
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

    #[derive(Clone, Copy, Debug)]
    struct Someone {
        source: u16,
        pasid: Option<Pasid>,
        tlb: Option<()>,
    }

    impl User for Someone {
        type Source = u16;
        type Tlb = ();
        type Tag = u16;

        fn source(&self) -> u16 {
            self.source
        }

        fn pasid(&self) -> Option<Pasid> {
            self.pasid
        }

        fn tlb(&self) -> Option<()> {
            self.tlb
        }

        fn set_tlb(&mut self, tlb: Option<()>) {
            self.tlb = tlb;
        }

        fn number(tag: u16) -> u64 {
            tag.into()
        }
    }

    fn user(source: u16, pasid: Option<u32>) -> Someone {
        Someone { source, pasid: pasid.and_then(Pasid::new), tlb: None }
    }

    const TAG: u16 = 5;

    #[test]
    fn users_are_in_order_and_leave_their_seat() {
        let mut users = Users::new();
        for (source, pasid) in [(2, None), (1, Some(7)), (1, None), (3, None), (1, Some(3))] {
            users.add(TAG, Seat::new(user(source, pasid)).unwrap());
        }
        let seen = |users: &Users<Someone>| users.iter().map(|user| (user.source, user.pasid)).collect::<Vec<_>>();
        let (three, seven) = (Pasid::new(3), Pasid::new(7));
        assert_eq!(seen(&users), [(1, None), (1, three), (1, seven), (2, None), (3, None)]);
        let seat = users.remove(TAG, 1, three).unwrap();
        assert!(users.remove(TAG, 1, three).is_none());
        assert_eq!(seen(&users), [(1, None), (1, seven), (2, None), (3, None)]);
        users.add(TAG, seat);
        assert_eq!(seen(&users)[1], (1, three));
    }

    #[test]
    fn a_stream_has_one_place_under_each_tag() {
        let (mut users, nested) = (Users::new(), 4);
        users.add(TAG, Seat::new(user(1, None)).unwrap());
        users.add(nested, Seat::new(user(1, None)).unwrap());
        assert_eq!(users.tagged().map(|(_, tag)| tag).collect::<Vec<_>>(), [nested, TAG]);
        assert_eq!((users.of(TAG).count(), users.of(nested).count()), (1, 1));
        // From one to the other.
        let seat = users.remove(TAG, 1, None).unwrap();
        assert!(users.remove(TAG, 1, None).is_none());
        assert_eq!((users.of(TAG).count(), users.of(nested).count()), (0, 1));
        users.add(TAG, seat);
        assert_eq!(users.of(TAG).count(), 1);
        // Whichever came first.
        let beside = |users: &Users<Someone>, tag| users.beside(tag).map(|(_, tag)| tag).collect::<Vec<_>>();
        assert_eq!((beside(&users, TAG), beside(&users, nested)), (alloc::vec![nested], alloc::vec![TAG]));
        users.remove(TAG, 1, None).unwrap();
        assert_eq!((beside(&users, TAG), beside(&users, nested)), (alloc::vec![nested], alloc::vec![]));
        users.remove(nested, 1, None).unwrap();
        users.add(TAG, Seat::new(user(1, None)).unwrap());
        assert_eq!((beside(&users, TAG), beside(&users, nested)), (alloc::vec![], alloc::vec![TAG]));
    }

    #[test]
    fn those_with_a_device_tlb_are_found_however_they_got_it() {
        let tlb = ();
        let mut users = Users::new();
        users.add(TAG, Seat::new(user(1, None)).unwrap());
        users.add(TAG, Seat::new(user(2, None)).unwrap());
        assert_eq!(users.with_tlb().count(), 0);
        users.set_tlb(1, Some(tlb));
        assert_eq!(users.with_tlb().map(|(user, _)| user.source).collect::<Vec<_>>(), [1]);
        users.set_tlb(1, None);
        assert_eq!(users.with_tlb().count(), 0);
        users.add(TAG, Seat::new(Someone { tlb: Some(tlb), ..user(3, None) }).unwrap());
        assert_eq!(users.with_tlb().count(), 1);
    }
}
