//! Page requests: a device asks for an address to be made usable and waits for the answer (PCIe ATS, chapter on PRI).

use super::{Prot, Stream};
use crate::addr::Iova;

/// One page request. Those of one group are answered together, once the last of them has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Who asks.
    pub stream: Stream,
    /// The page, in its lowest address.
    pub iova: Iova,
    /// What it is to allow.
    pub prot: Prot,
    /// The device's number for the group: 9 bits in PCIe.
    pub group: u16,
    /// No more of this group will come.
    pub last: bool,
}

/// How a group of page requests ended (PCIe ATS, response codes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseCode {
    /// The pages are there: try again.
    Success,
    /// The pages will not be there.
    Invalid,
    /// Nothing this device asks for can be handled: it stops asking.
    Failure,
}

/// The answer to a group of page requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageResponse {
    /// Who asked.
    pub stream: Stream,
    /// The device's number for the group.
    pub group: u16,
    /// The answer.
    pub code: ResponseCode,
}
