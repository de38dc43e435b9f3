//! What a QUIC packet shows to those without its keys: the form of its header and connection IDs (RFC 8999 §5, RFC 9000
//! §17).
//!
//! Pure; called by the datagram relay, which keeps the flows of one connection on one endpoint. Nothing is verified: what
//! looks like QUIC may be anything, so that a wrong guess must cost nothing but a look-up.

/// Longest connection ID in bytes (RFC 9000 §17.2). Longer ones belong to other versions and are not told apart.
pub const CONNECTION_ID_BYTES_MAX: usize = 20;
/// Smallest datagram in bytes that carries a client's first packet (RFC 9000 §14.1).
pub const INITIAL_DATAGRAM_BYTES_MIN: usize = 1_200;
/// Shortest destination connection ID in bytes of a client's first packet (RFC 9000 §7.2).
const FIRST_DESTINATION_BYTES_MIN: usize = 8;

/// One connection ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    len: u8,
    bytes: [u8; CONNECTION_ID_BYTES_MAX],
}

impl ConnectionId {
    /// `None` when it is longer than [`CONNECTION_ID_BYTES_MAX`].
    #[must_use]
    pub fn new(given: &[u8]) -> Option<Self> {
        let mut bytes = [0; CONNECTION_ID_BYTES_MAX];
        bytes.get_mut(..given.len())?.copy_from_slice(given);
        Some(Self { len: u8::try_from(given.len()).ok()?, bytes })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Has it no byte? Then it names no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The header of the first packet of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// A packet of a handshake: it names both ends (RFC 8999 §5.1).
    Long {
        /// 0 = version negotiation.
        version: u32,
        /// Whom it is for, by the ID that the receiver chose.
        destination: ConnectionId,
        /// The ID that the sender wants to be called by.
        source: ConnectionId,
    },
    /// Any other packet: a destination of a length that only its chooser knows (RFC 8999 §5.2).
    Short {
        /// What follows the first byte; it begins with the destination.
        rest: &'a [u8],
    },
}

/// Reads the header of the first packet. `None` when it is none, or one with connection IDs that are too long.
#[must_use]
pub fn header(datagram: &[u8]) -> Option<Header<'_>> {
    let (first, rest) = datagram.split_first()?;
    if first & 0x80 == 0 {
        return Some(Header::Short { rest });
    }
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (destination, rest) = connection_id(rest)?;
    let (source, _) = connection_id(rest)?;
    Some(Header::Long { version: u32::from_be_bytes(*version), destination, source })
}

fn connection_id(bytes: &[u8]) -> Option<(ConnectionId, &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let (id, rest) = rest.split_at_checked(usize::from(*len))?;
    Some((ConnectionId::new(id)?, rest))
}

/// Does a client open a connection with this datagram? By form, size and the length of its destination: nothing else is
/// known of a packet whose version one need not know.
#[must_use]
pub fn opens_connection(datagram: &[u8]) -> bool {
    match header(datagram) {
        Some(Header::Long { version, destination, .. }) => {
            version != 0
                && datagram.len() >= INITIAL_DATAGRAM_BYTES_MIN
                && destination.len() >= FIRST_DESTINATION_BYTES_MIN
        }
        Some(Header::Short { .. }) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(version: u32, destination: &[u8], source: &[u8]) -> Vec<u8> {
        let id = |id: &[u8]| [&[u8::try_from(id.len()).unwrap()][..], id].concat();
        [&[0xc3][..], &version.to_be_bytes(), &id(destination), &id(source)].concat()
    }

    /// RFC 9001 A.2: the first bytes of a client's Initial packet.
    #[test]
    fn the_initial_packet_of_the_rfc_is_read() {
        let mut packet =
            vec![0xc3, 0, 0, 0, 1, 8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0, 0, 0x44, 0x9e];
        let destination = ConnectionId::new(&[0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08]).unwrap();
        let source = ConnectionId::new(&[]).unwrap();
        assert_eq!(header(&packet), Some(Header::Long { version: 1, destination, source }));
        assert!(!opens_connection(&packet), "too small");
        packet.resize(INITIAL_DATAGRAM_BYTES_MIN, 0);
        assert!(opens_connection(&packet));
    }

    #[test]
    fn a_short_header_leaves_its_destination_to_whoever_knows_its_length() {
        assert_eq!(header(&[0x40, 1, 2, 3]), Some(Header::Short { rest: &[1, 2, 3] }));
        assert!(!opens_connection(&[0x40; 1_200]));
    }

    #[test]
    fn what_is_cut_or_too_long_is_no_header() {
        let whole = long(1, &[7; 20], &[8; 20]);
        assert!(header(&whole).is_some());
        assert!((0..whole.len()).all(|len| match header(&whole[..len]) {
            None => true,
            Some(Header::Short { .. } | Header::Long { .. }) => false,
        }));
        assert_eq!(header(&long(1, &[7; 21], &[])), None);
        for (destination, opens) in [(7, false), (8, true), (20, true)] {
            let mut first = long(1, &vec![7; destination], &[]);
            first.resize(INITIAL_DATAGRAM_BYTES_MIN, 0);
            assert_eq!(opens_connection(&first), opens, "{destination}");
        }
        let mut negotiation = long(0, &[7; 8], &[]);
        negotiation.resize(1_300, 0);
        assert!(!opens_connection(&negotiation));
    }
}
