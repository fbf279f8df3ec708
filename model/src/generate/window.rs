//! Flows that have begun, in the order in which they were asked for, until they are taken out.

use std::collections::VecDeque;
use std::task::Poll;

use super::generator::End;
use crate::codec::{LabelId, Token};
use crate::packet::Timestamp;

/// Tokens of ended flows that wait at most before another flow begins: 16 MB, some 300,000 packets.
pub(super) const HELD_TOKENS_MAX: usize = 4_000_000;

/// A flow that has ended. Its packets are made when it is taken out: they are many times as large as its tokens.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) label: LabelId,
    pub(super) start: Timestamp,
    /// All tokens, prompt included.
    pub(super) tokens: Vec<Token>,
    pub(super) prompt_tokens: usize,
    /// It has no more packets, even where its tokens say more.
    pub(super) packets_max: usize,
    pub(super) end: End,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// `None` while a flow is being decoded.
    flows: VecDeque<Option<Ended>>,
    /// Index of the first of them.
    first: u64,
    /// Tokens of those that have ended.
    tokens: usize,
}

impl Window {
    /// A flow begins. Returns its index, from 0.
    pub(super) fn begin(&mut self) -> u64 {
        self.flows.push_back(None);
        self.first + self.flows.len() as u64 - 1
    }

    /// The flow with this index has ended.
    pub(super) fn end(&mut self, index: u64, flow: Ended) {
        self.tokens += flow.tokens.len();
        self.flows[(index - self.first) as usize] = Some(flow);
    }

    /// The next flow and its index: `None` where none has begun, pending while it has not ended.
    pub(super) fn take(&mut self) -> Poll<Option<(u64, Ended)>> {
        let Some(first) = self.flows.front_mut() else { return Poll::Ready(None) };
        let Some(flow) = first.take() else { return Poll::Pending };
        self.flows.pop_front();
        self.first += 1;
        self.tokens -= flow.tokens.len();
        Poll::Ready(Some((self.first - 1, flow)))
    }

    /// Forgets the flows from this index on.
    pub(super) fn give_up(&mut self, from: u64) {
        let given_up = self.flows.drain((from - self.first) as usize..).flatten();
        self.tokens -= given_up.map(|flow| flow.tokens.len()).sum::<usize>();
    }

    /// How many more flows may begin, of `most` in all. None where too many tokens are held; then the first flow is under way, or
    /// can be taken out.
    pub(super) fn room(&self, most: usize) -> usize {
        if self.tokens > HELD_TOKENS_MAX { 0 } else { most.saturating_sub(self.flows.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(tokens: usize) -> Ended {
        let tokens = vec![Token(1); tokens];
        Ended { label: LabelId(0), start: Timestamp(0), tokens, prompt_tokens: 1, packets_max: 9, end: End::Finished }
    }

    #[test]
    fn flows_are_taken_out_in_the_order_of_their_beginnings() {
        let mut window = Window::default();
        assert!(matches!(window.take(), Poll::Ready(None)));
        let indices = [(); 3].map(|()| window.begin());
        assert_eq!(indices, [0, 1, 2]);
        assert_eq!(window.room(5), 2);
        window.end(1, flow(HELD_TOKENS_MAX));
        assert!(window.take().is_pending());
        assert_eq!(window.room(5), 2);
        window.end(0, flow(1));
        assert_eq!(window.room(5), 0, "too many tokens are held");
        assert!(matches!(window.take(), Poll::Ready(Some((0, _)))));
        assert_eq!(window.room(5), 3);
        window.end(2, flow(1));
        assert_eq!(window.room(5), 0);
        window.give_up(2);
        assert_eq!(window.room(5), 4);
        assert!(matches!(window.take(), Poll::Ready(Some((1, _)))));
        assert_eq!(window.room(5), 5);
        assert_eq!(window.begin(), 2);
    }
}
