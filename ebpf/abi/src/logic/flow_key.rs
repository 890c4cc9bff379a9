//! The order of a flow's two ends, by which both directions have one [`FlowKey`]; and the order of backends in a set.
//!
//! The verifier follows every branch. So comparisons go word by word, and a key is written field by field.

use crate::{Addr, Backend, FlowKey, Proto, SocketAddr};

impl FlowKey {
    /// Makes this the key of the flow between two ends. Returns whether the source is the high end.
    #[inline(always)]
    pub fn locate(&mut self, source: &SocketAddr, destination: &SocketAddr, proto: Proto) -> bool {
        let from_high = is_higher(source, destination);
        if from_high {
            self.join(destination, source)
        } else {
            self.join(source, destination)
        }
        self.end(proto);
        from_high
    }

    /// As [`FlowKey::locate`] for two IPv4 addresses, of which one word counts.
    #[inline(always)]
    pub fn locate_v4(&mut self, source: &SocketAddr, destination: &SocketAddr, proto: Proto) -> bool {
        let (from, to) = (source.addr.v4_word(), destination.addr.v4_word());
        let (from_port, to_port) = (source.port, destination.port);
        let from_high = from > to || from == to && from_port.0 > to_port.0;
        let (low, high) = if from_high { (to, from) } else { (from, to) };
        (self.low, self.high) = (Addr::from_v4_word(low), Addr::from_v4_word(high));
        (self.low_port, self.high_port) = if from_high { (to_port, from_port) } else { (from_port, to_port) };
        self.end(proto);
        from_high
    }

    #[inline(always)]
    fn end(&mut self, proto: Proto) {
        self.proto = proto;
        // One by one: three bytes together are a call of memset, with a frame on a stack that has no room for it.
        for byte in &mut self.reserved {
            *byte = 0;
        }
    }

    /// Copies word by word: a whole structure would go through the stack, or a call of memcpy.
    #[inline(always)]
    pub fn copy(&mut self, from: &FlowKey) {
        let (to, from) = ((&raw mut *self).cast::<u32>(), words(from));
        for i in 0..WORDS {
            // SAFETY: a key is that many words; volatile keeps them apart.
            unsafe { core::ptr::write_volatile(to.add(i), core::ptr::read_volatile(from.add(i))) };
        }
    }

    /// Reads each word again: whole structures, or words kept since the comparison, would go through the stack.
    #[inline(always)]
    fn join(&mut self, low: &SocketAddr, high: &SocketAddr) {
        // SAFETY: reads through valid references; volatile only keeps the compiler from remembering the values.
        let word = |addr: &Addr, i: usize| unsafe { core::ptr::read_volatile(&raw const addr.0[i]) };
        for i in 0..4 {
            self.low.0[i] = word(&low.addr, i);
            self.high.0[i] = word(&high.addr, i);
        }
        (self.low_port, self.high_port) = (low.port, high.port);
    }
}

/// A key as words of memory.
const WORDS: usize = size_of::<FlowKey>() / 4;

#[inline(always)]
fn words(key: &FlowKey) -> *const u32 {
    (&raw const *key).cast()
}

/// Whether the keys are equal, compared word by word as in [`FlowKey::copy`].
#[inline(always)]
pub fn is_same(a: &FlowKey, b: &FlowKey) -> bool {
    let (a, b) = (words(a), words(b));
    for i in 0..WORDS {
        // SAFETY: a key is that many words.
        if unsafe { core::ptr::read_volatile(a.add(i)) != core::ptr::read_volatile(b.add(i)) } {
            return false;
        }
    }
    true
}

/// Whether `a` is the higher end. The order is of words as memory holds them: any total order serves.
#[inline(always)]
pub fn is_higher(a: &SocketAddr, b: &SocketAddr) -> bool {
    for i in 0..4 {
        if a.addr.0[i] != b.addr.0[i] {
            return a.addr.0[i] > b.addr.0[i];
        }
    }
    a.port.0 > b.port.0
}

/// Whether `a` comes after `b` in a backend set: `a > b`, in the form that the verifier accepts.
#[inline(always)]
pub fn comes_after(a: &Backend, b: &Backend) -> bool {
    for i in 0..4 {
        if a.addr.0[i] != b.addr.0[i] {
            return a.addr.0[i] > b.addr.0[i];
        }
    }
    a.port.get() > b.port.get()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Be16;

    /// Few values, so that words and ports are often equal.
    fn socket_addr() -> impl Strategy<Value = SocketAddr> {
        (prop::array::uniform4(0..3u32), 0..3u16)
            .prop_map(|(words, port)| SocketAddr::new(Addr(words), Be16::new(port)))
    }

    fn key(source: &SocketAddr, destination: &SocketAddr) -> (FlowKey, bool) {
        let mut key = FlowKey { reserved: [7; 3], ..FlowKey::default() };
        let from_high = key.locate(source, destination, Proto::TCP);
        (key, from_high)
    }

    proptest! {
        #[test]
        fn both_directions_have_one_key(a in socket_addr(), b in socket_addr()) {
            let ((there, from_high), (back, back_from_high)) = (key(&a, &b), key(&b, &a));
            prop_assert_eq!(there, back);
            prop_assert_eq!(from_high != back_from_high, a != b);
        }

        #[test]
        fn a_key_holds_both_ends(a in socket_addr(), b in socket_addr()) {
            let (key, from_high) = key(&a, &b);
            let (low, high) = if from_high { (b, a) } else { (a, b) };
            prop_assert_eq!((key.low, key.low_port), (low.addr, low.port));
            prop_assert_eq!((key.high, key.high_port), (high.addr, high.port));
            prop_assert_eq!((key.proto, key.reserved), (Proto::TCP, [0; 3]));
        }

        #[test]
        fn a_key_of_ipv4_is_the_same(a in 0..3u32, b in 0..3u32, ports in prop::array::uniform2(0..3u16)) {
            let end = |word, port| SocketAddr::new(Addr::from_v4_word(word), Be16::new(port));
            let (a, b) = (end(a, ports[0]), end(b, ports[1]));
            let mut quick = FlowKey { reserved: [7; 3], ..FlowKey::default() };
            let from_high = quick.locate_v4(&a, &b, Proto::TCP);
            prop_assert_eq!((quick, from_high), key(&a, &b));
        }

        #[test]
        fn a_copy_is_the_same(a in socket_addr(), b in socket_addr(), c in socket_addr()) {
            let ((key, _), (other, _)) = (key(&a, &b), key(&a, &c));
            let mut copy = FlowKey::default();
            copy.copy(&key);
            prop_assert_eq!(copy, key);
            prop_assert!(is_same(&copy, &key));
            prop_assert_eq!(is_same(&key, &other), key == other);
        }

        #[test]
        fn the_higher_end_is_one(a in socket_addr(), b in socket_addr(), c in socket_addr()) {
            prop_assert_eq!(is_higher(&a, &b) || is_higher(&b, &a), a != b);
            prop_assert!(!(is_higher(&a, &b) && is_higher(&b, &a)));
            prop_assert!(!(is_higher(&a, &b) && is_higher(&b, &c)) || is_higher(&a, &c));
        }

        #[test]
        fn backends_are_in_their_own_order(a in socket_addr(), b in socket_addr()) {
            let backend = |end: SocketAddr| Backend { addr: end.addr, port: end.port, reserved: 0 };
            prop_assert_eq!(comes_after(&backend(a), &backend(b)), backend(a) > backend(b));
        }
    }
}
