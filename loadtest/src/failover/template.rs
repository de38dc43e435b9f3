//! Peers' configurations from their templates.
//!
//! `{{NAME}}` is replaced. The lines between `{{#backends}}` and `{{/backends}}`, each marker on a line of its own, are
//! repeated for every backend, and within them those between `{{#active}}`, `{{#standby}}` and their ends for every
//! endpoint of cluster a and of cluster b.

use std::net::SocketAddr;

use super::topology::{Cluster, Plan};

/// A backend as a configuration names it.
pub(crate) struct Backend {
    /// Its name.
    pub(crate) name: String,
    /// The path that it serves.
    pub(crate) path: String,
    active: Vec<(String, SocketAddr)>,
    standby: Vec<(String, SocketAddr)>,
}

impl Backend {
    /// Backend number `index`, with so many endpoints per cluster.
    pub(crate) fn new(index: u8, pods: u8) -> Self {
        let (name, path) = if index == 0 {
            ("web".to_owned(), "/".to_owned())
        } else {
            (format!("web{index}"), format!("/{index}/"))
        };
        let endpoints = |cluster: Cluster| {
            let named = |pod| (format!("{}{pod}", cluster.name()), Plan::pod(cluster, pod, index));
            (0..pods).map(named).collect()
        };
        Self { name, path, active: endpoints(Cluster::A), standby: endpoints(Cluster::B) }
    }
}

/// The configuration.
pub(crate) fn fill(template: &str, backends: &[Backend], values: &[(&str, String)]) -> String {
    let text = repeat(template, "backends", backends, |section, backend| {
        let endpoint = |section: &str, (name, addr): &(String, SocketAddr)| {
            let (address, host, port) = (addr.to_string(), addr.ip().to_string(), addr.port().to_string());
            replace(section, &[("NAME", name), ("ADDRESS", &address), ("HOST", &host), ("PORT", &port)])
        };
        let section = repeat(section, "active", &backend.active, endpoint);
        let section = repeat(&section, "standby", &backend.standby, endpoint);
        replace(&section, &[("BACKEND", &backend.name), ("PATH", &backend.path)])
    });
    let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
    replace(&text, &values)
}

fn replace(text: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

/// Repeats the lines between the markers of `name`, wherever they stand, once for every item.
fn repeat<T>(text: &str, name: &str, items: &[T], each: impl Fn(&str, &T) -> String) -> String {
    let (begin, end) = (format!("{{{{#{name}}}}}"), format!("{{{{/{name}}}}}"));
    let (mut out, mut section) = (String::new(), None::<String>);
    for line in text.split_inclusive('\n') {
        match &mut section {
            None if line.contains(&begin) => section = Some(String::new()),
            None => out.push_str(line),
            Some(lines) if line.contains(&end) => {
                out.extend(items.iter().map(|item| each(lines, item)));
                section = None;
            }
            Some(lines) => lines.push_str(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_repeated_for_every_backend_and_endpoint() {
        let template = "\
listen {{LISTEN}}
# {{#backends}}
{{BACKEND}} {{PATH}}
# {{#active}}
  {{NAME}} {{ADDRESS}}
# {{/active}}
# {{#standby}}
  {{HOST}} {{PORT}} standby
# {{/standby}}
# {{/backends}}
end
";
        let backends = [Backend::new(1, 1), Backend::new(0, 2)];
        let filled = fill(template, &backends, &[("LISTEN", "x:1".to_owned())]);
        let expected = "\
listen x:1
web1 /1/
  a0 10.99.1.11:8081
  10.99.2.11 8081 standby
web /
  a0 10.99.1.11:8080
  a1 10.99.1.12:8080
  10.99.2.11 8080 standby
  10.99.2.12 8080 standby
end
";
        assert_eq!(filled, expected);
    }
}
