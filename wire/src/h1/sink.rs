//! Where encoded bytes go: a growing vector, or a buffer that may be too small.

/// Takes bytes in order.
pub trait Sink {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);

    /// Appends one header line.
    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.put(name);
        self.put(b": ");
        self.put(value);
        self.put(b"\r\n");
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        // One growth check for the line, then copies that cannot grow.
        self.reserve(name.len() + value.len() + 4);
        self.extend_from_slice(name);
        self.extend_from_slice(b": ");
        self.extend_from_slice(value);
        self.extend_from_slice(b"\r\n");
    }
}

/// Writes into a borrowed buffer, for instance the one that the socket sends from.
///
/// What does not fit is not written; [`SliceSink::written`] tells.
#[derive(Debug)]
pub struct SliceSink<'a> {
    buffer: &'a mut [u8],
    /// `None` once something did not fit.
    len: Option<usize>,
}

impl<'a> SliceSink<'a> {
    /// Writes from the start of `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: Some(0) }
    }

    /// How many bytes were written, or `None` when they did not all fit: encode again into a larger buffer.
    #[must_use]
    pub fn written(&self) -> Option<usize> {
        self.len
    }
}

impl Sink for SliceSink<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let Some(len) = self.len else { return };
        self.len = match self.buffer.get_mut(len..len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Some(len + bytes.len())
            }
            None => None,
        };
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let Some(len) = self.len else { return };
        let line = name.len() + value.len() + 4;
        self.len = match self.buffer.get_mut(len..len + line) {
            Some(room) => {
                let (to_name, room) = room.split_at_mut(name.len());
                let (to_colon, room) = room.split_at_mut(2);
                let (to_value, to_end) = room.split_at_mut(value.len());
                to_name.copy_from_slice(name);
                to_colon.copy_from_slice(b": ");
                to_value.copy_from_slice(value);
                to_end.copy_from_slice(b"\r\n");
                Some(len + line)
            }
            None => None,
        };
    }
}
