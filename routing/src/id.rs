//! Newtypes for the things that the controller numbers and the workers index by.
//!
//! All are dense and small, handed out by the controller, and may be used again after their owner was removed by
//! an earlier update.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// This id as an index.
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id! {
    /// One address and port that is accepted on. Several listeners may share it (Gateway API).
    BindId(u16)
}
id! {
    /// One listener: a hostname section of one bind.
    ListenerId(u32)
}
id! {
    /// One member cluster.
    ClusterId(u16)
}
id! {
    /// One Service port as seen across clusters.
    BackendId(u32)
}
id! {
    /// One address of one backend in one cluster.
    EndpointId(u32)
}
id! {
    /// A zone name, numbered; 0 = unknown. A failure domain.
    ZoneId(u16)
}
id! {
    /// A node name, numbered per cluster; 0 = unknown. A failure domain.
    NodeId(u32)
}

/// The number of a table update. A worker applies generations in order; 0 is the empty table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);
