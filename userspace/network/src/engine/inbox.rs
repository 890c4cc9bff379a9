//! The engine's messages, taken from their channel in blocks.
//!
//! While a list arrives the channel is full. A message that is taken alone makes room for one, and so wakes the sender for one: that
//! takes longer than the change of the index.

use std::collections::VecDeque;

use tokio::sync::mpsc;

/// Messages that are taken at once.
const BLOCK_LEN: usize = 512;

/// See the module.
pub(super) struct Inbox<T> {
    channel: mpsc::Receiver<T>,
    taken: VecDeque<T>,
    /// Empty but for its capacity.
    block: Vec<T>,
}

impl<T> Inbox<T> {
    pub(super) fn new(channel: mpsc::Receiver<T>) -> Self {
        Inbox { channel, taken: VecDeque::new(), block: Vec::new() }
    }

    /// The next message in the order of the channel; `None`: every sender is gone. A call that is given up loses none.
    pub(super) async fn next(&mut self) -> Option<T> {
        if self.taken.is_empty() {
            self.channel.recv_many(&mut self.block, BLOCK_LEN).await;
            self.taken.extend(self.block.drain(..));
        }
        self.taken.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn every_message_arrives_in_order_although_calls_are_given_up() {
        let (sender, channel) = mpsc::channel(BLOCK_LEN / 2);
        let sent: Vec<usize> = (0..3 * BLOCK_LEN + 1).collect();
        let all = sent.clone();
        let sending = tokio::spawn(async move {
            for number in all {
                sender.send(number).await.unwrap();
                if number % 100 == 0 {
                    yield_now().await;
                }
            }
        });
        let mut inbox = Inbox::new(channel);
        let mut received = Vec::new();
        loop {
            tokio::select! {
                biased;
                message = inbox.next() => match message {
                    Some(number) => received.push(number),
                    None => break,
                },
                () = yield_now() => {}
            }
        }
        sending.await.unwrap();
        assert_eq!(received, sent);
    }
}
