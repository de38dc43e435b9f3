//! Which endpoint has a QUIC connection, by the IDs that it gave itself.
//!
//! An endpoint tells its client how it wants to be called in the packets of the handshake, in clear (RFC 9000 §7.2);
//! the client puts that ID into every packet that it sends. When a NAT gives the client another port or address, the
//! packets still carry it, and the new flow goes to the same endpoint, over a socket of its own: the endpoint sees a
//! new path and validates it (RFC 9000 §9.3), so that whoever forges a source cannot turn its answers on somebody else.
//!
//! Whatever is thought of an endpoint, a connection that it has named stays with it until ICMP says that it is gone, or it
//! leaves the table: nobody else could go on with it, and what may be back in a moment finds its client there. What opens
//! another connection, from the same address or not, goes by the failure detector as everything else does.
//!
//! What does not hold: IDs that an endpoint hands out later are encrypted, and a client that moves on purpose uses one of
//! those (§9.5). That flow is picked anew, and unless the pick is by source or finds the same endpoint by chance, the
//! connection ends with a stateless reset.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use routing::id::BindId;
use routing::table::EndpointKey;
use wire::quic::{CONNECTION_ID_BYTES_MAX, ConnectionId, Header, header, opens_connection};

use super::Flows;

/// IDs of one connection that are remembered: one of a Retry packet, one of the handshake, and some to spare.
const IDS_PER_CONNECTION_MAX: usize = 4;

/// A connection whose endpoint is known. Shared by its flows; forgotten with the last of them.
pub(super) struct Connection {
    bind: BindId,
    endpoint: EndpointKey,
    ids: RefCell<Vec<ConnectionId>>,
}

impl Connection {
    pub(super) fn new(bind: BindId, endpoint: EndpointKey) -> Rc<Self> {
        Rc::new(Self { bind, endpoint, ids: RefCell::default() })
    }

    /// Who has it.
    pub(super) fn endpoint(&self) -> EndpointKey {
        self.endpoint
    }

    /// Has its endpoint said how it is to be called, so that there is a connection? Before that a client only asks for one.
    pub(super) fn is_named(&self) -> bool {
        !self.ids.borrow().is_empty()
    }
}

/// The connections of one worker.
#[derive(Default)]
pub(super) struct Index {
    /// The standard map: endpoints choose the keys, and their clients may have a hand in it.
    by_id: RefCell<HashMap<(BindId, ConnectionId), Weak<Connection>>>,
    /// How many IDs of each length there are: a short header does not say how long its ID is.
    lengths: [Cell<u32>; CONNECTION_ID_BYTES_MAX + 1],
}

impl Index {
    /// The connection that a client's datagram belongs to, if its ID is known.
    pub(super) fn find(&self, bind: BindId, datagram: &[u8]) -> Option<Rc<Connection>> {
        let by_id = self.by_id.borrow();
        if by_id.is_empty() {
            return None;
        }
        let get = |id: ConnectionId| by_id.get(&(bind, id))?.upgrade();
        match header(datagram)? {
            Header::Long { destination, .. } => get(destination),
            Header::Short { rest } => {
                let lengths = self.lengths.iter().enumerate().rev().filter(|(_, count)| count.get() > 0);
                lengths.filter_map(|(len, _)| ConnectionId::new(rest.get(..len)?)).find_map(get)
            }
        }
    }

    /// Does a client ask for a connection by this datagram, of which no endpoint knows yet? Later packets of a handshake have
    /// the same form, but name the endpoint.
    pub(super) fn is_opening(&self, bind: BindId, datagram: &[u8]) -> bool {
        opens_connection(datagram) && self.find(bind, datagram).is_none()
    }

    /// Learns from a datagram of an endpoint what it wants to be called.
    pub(super) fn learn(&self, connection: &Rc<Connection>, datagram: &[u8]) {
        let Some(Header::Long { version, source, .. }) = header(datagram) else { return };
        let mut ids = connection.ids.borrow_mut();
        if version == 0 || source.is_empty() || ids.len() >= IDS_PER_CONNECTION_MAX || ids.contains(&source) {
            return;
        }
        let key = (connection.bind, source);
        let mut by_id = self.by_id.borrow_mut();
        // Another connection's: an endpoint that hands one ID out twice, or two endpoints that do. The first one has it.
        if by_id.get(&key).is_some_and(|other| other.strong_count() > 0) {
            return;
        }
        if by_id.insert(key, Rc::downgrade(connection)).is_none() {
            let count = &self.lengths[source.len()];
            count.set(count.get() + 1);
        }
        ids.push(source);
    }

    /// Forgets a connection with its last flow.
    fn forget(&self, connection: &Connection) {
        let mut by_id = self.by_id.borrow_mut();
        for id in connection.ids.borrow_mut().drain(..) {
            if by_id.remove(&(connection.bind, id)).is_some() {
                let count = &self.lengths[id.len()];
                count.set(count.get().saturating_sub(1));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_id.borrow().len()
    }
}

impl Flows {
    /// A flow of this connection ends.
    pub(super) fn let_go(&self, connection: &mut Option<Rc<Connection>>) {
        if let Some(last) = connection.take().and_then(Rc::into_inner) {
            self.connections.forget(&last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(source: &[u8]) -> Vec<u8> {
        let len = u8::try_from(source.len()).unwrap();
        [&[0xe3, 0, 0, 0, 1, 4, 9, 9, 9, 9, len][..], source].concat()
    }

    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x41][..], id, b"whatever follows is encrypted"].concat()
    }

    #[test]
    fn an_id_is_known_from_the_handshake_to_the_last_flow_and_on_its_own_listener_only() {
        let (flows, bind) = (Flows::default(), BindId(3));
        let endpoint = EndpointKey { slot: 7, turn: 1 };
        let connection = Connection::new(bind, endpoint);
        let index = &flows.connections;
        index.learn(&connection, &answer(b"eight-by"));
        index.learn(&connection, &answer(b"twenty bytes of name"));
        for id in [&b"eight-by"[..], b"twenty bytes of name"] {
            assert_eq!(index.find(bind, &short(id)).unwrap().endpoint(), endpoint);
            assert!(index.find(BindId(4), &short(id)).is_none());
        }
        assert!(index.find(bind, &short(b"eight-bz")).is_none());
        let (mut first, mut second) = (Some(Rc::clone(&connection)), Some(connection));
        flows.let_go(&mut first);
        assert!(index.find(bind, &short(b"eight-by")).is_some());
        flows.let_go(&mut second);
        assert_eq!(index.len(), 0);
        assert!(index.lengths.iter().all(|count| count.get() == 0));
    }

    #[test]
    fn ids_are_bounded_and_an_id_that_is_taken_stays_with_its_connection() {
        let (flows, bind) = (Flows::default(), BindId(0));
        let of = |slot| Connection::new(bind, EndpointKey { slot, turn: 0 });
        let (first, second) = (of(1), of(2));
        for n in 0..20 {
            flows.connections.learn(&first, &answer(&[n; 8]));
        }
        assert_eq!(flows.connections.len(), IDS_PER_CONNECTION_MAX);
        flows.connections.learn(&second, &answer(&[0; 8]));
        assert_eq!(flows.connections.find(bind, &short(&[0; 8])).unwrap().endpoint().slot, 1);
        // Version negotiation and an empty ID name nobody.
        let mut negotiation = answer(b"negotiat");
        negotiation[1..5].fill(0);
        flows.connections.learn(&second, &negotiation);
        flows.connections.learn(&second, &answer(b""));
        assert_eq!(flows.connections.len(), IDS_PER_CONNECTION_MAX);
    }
}
