//! Where one message of a request ends and the next one begins.

/// Where in its messages a request is: each has a flag and its length in four bytes before it (gRPC over
/// HTTP/2, "Length-Prefixed-Message").
#[derive(Debug, Default)]
pub(super) struct Messages {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that came.
    begun: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

pub(super) const PREFIX: usize = 5;

impl Messages {
    /// Follows what came; the length of the longest message that ended in it.
    pub(super) fn follow(&mut self, mut data: &[u8]) -> Option<usize> {
        let mut ended = None;
        while !data.is_empty() {
            if self.begun < PREFIX {
                let (head, rest) = data.split_at(data.len().min(PREFIX - self.begun));
                self.prefix[self.begun..][..head.len()].copy_from_slice(head);
                self.begun += head.len();
                data = rest;
                if self.begun < PREFIX {
                    return ended;
                }
                self.left = self.len();
            }
            let part = data.len().min(self.left);
            data = &data[part..];
            self.left -= part;
            if self.left == 0 {
                self.begun = 0;
                ended = ended.max(Some(self.len()));
            }
        }
        ended
    }

    fn len(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length) as usize
    }

    /// Length of the message of which a part is still to come.
    pub(super) fn under_way(&self) -> Option<usize> {
        (self.begun == PREFIX).then(|| self.len())
    }

    /// Bytes that came of it.
    pub(super) fn there(&self) -> Option<usize> {
        self.under_way().map(|bytes| bytes - self.left)
    }
}
