//! Virtual IPs of Gateways, by the built binary in a network namespace of the test's own.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// What both tests begin with: an interface, the gateway, and how to wait.
const PREAMBLE: &str = r#"
set -eu
ip link set lo up
ip link add vip0 type veth peer name vip1
ip link set vip1 up
ip link set vip0 up
until_true() {
    end=$(( $(date +%s) + 20 ))
    while ! eval "$1" >/dev/null 2>&1; do
        if [ "$(date +%s)" -gt "$end" ]; then echo "never happened: $1"; ip -o addr; cat "$DIR/log"; exit 1; fi
        sleep 0.02
    done
}
on_vip0() { ip -o addr show dev vip0 | grep -qF " $1 "; }
serves() { [ "$(curl -gs --max-time 2 -o /dev/null -w '%{redirect_url}' "http://$1:8080/")" = "http://$2.example/" ]; }
finish() { kill "$PID" 2>/dev/null || true; wait "$PID" 2>/dev/null || true; }
"#;

const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: ringway}\nspec: {controllerName: ringway.dev/gateway}\n";

/// A Gateway on port 8080 that redirects everything to its own name.
fn gateway(name: &str, address: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  gatewayClassName: ringway\n  addresses: [{address}]\n  listeners: [{{name: http, port: 8080, protocol: HTTP}}]\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{name: {name}}}]\n  rules:\n  - filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {name}.example, port: 80}}}}]\n"
    )
}

struct Lab {
    dir: PathBuf,
}

impl Lab {
    /// `None` where this machine allows no namespaces, or has not the tools: then one line says so.
    fn new(name: &str, config: &str) -> Option<Self> {
        let probe = "ip link add p0 type veth peer name p1 && curl --version && setpriv --version";
        let tried = Command::new("unshare").args(["--net", "sh", "-c", probe]).output();
        let allowed = tried.is_ok_and(|output| output.status.success());
        if !allowed {
            // Past the test harness, which keeps what a test prints for itself unless it fails.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {name}: no network namespaces here, or no ip, curl and setpriv"
            );
            return None;
        }
        let dir = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("fleet")).unwrap();
        fs::write(dir.join("fleet/class.yaml"), CLASS).unwrap();
        let rest = "[worker]\npin = false\ncount = 2\n[admin]\nsocket = \"\"\nstate_dir = \"\"\n";
        fs::write(dir.join("gateway.toml"), format!("{rest}{config}")).unwrap();
        Some(Self { dir })
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.dir.join(path), text).unwrap();
    }

    #[track_caller]
    fn run(&self, script: &str) {
        let output = Command::new("unshare")
            .args(["--net", "sh", "-c", &format!("{PREAMBLE}{script}")])
            .env("DIR", &self.dir)
            .env("RINGWAY", env!("CARGO_BIN_EXE_ringway"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn gateways_share_a_port_on_addresses_that_come_to_the_interface_and_go_with_them() {
    let config =
        "[gateway]\naddress_pool = [\"10.99.0.1-10.99.0.2\", \"fd99::1-fd99::2\"]\ninterface = \"vip0\"\n";
    let Some(lab) = Lab::new("addresses", config) else { return };
    lab.write("fleet/a.yaml", &gateway("a", "{value: 10.99.0.1}, {value: 'fd99::1'}"));
    lab.write("fleet/b.yaml", &gateway("b", ""));
    lab.run(
        r#"
        ip addr add 192.0.2.1/24 dev vip0
        # Left there by a process that was killed.
        ip addr add fd99::2/128 dev vip0
        ip addr add 10.99.0.2/32 dev vip0
        "$RINGWAY" run --config "$DIR/gateway.toml" --manifests "$DIR" --listen 127.0.0.1:8088 2>"$DIR/log" & PID=$!
        trap finish EXIT
        until_true 'serves 10.99.0.1 a'
        until_true 'serves 10.99.0.2 b'
        until_true 'serves "[fd99::1]" a'
        until_true 'serves "[fd99::2]" b'
        on_vip0 10.99.0.1/32 && on_vip0 fd99::1/128
        rm "$DIR/fleet/b.yaml"
        until_true '! on_vip0 10.99.0.2/32 && ! on_vip0 fd99::2/128'
        serves 10.99.0.1 a
        # Taken off by somebody else: it comes back.
        ip addr del 10.99.0.1/32 dev vip0
        until_true 'on_vip0 10.99.0.1/32'
        kill -TERM "$PID"
        wait "$PID"
        ! on_vip0 10.99.0.1/32
        ! on_vip0 fd99::1/128
        on_vip0 192.0.2.1/24
        "#,
    );
}

#[test]
fn an_address_that_is_not_there_yet_is_listened_on_and_what_is_missing_is_named() {
    let config = "[gateway]\naddress_pool = [\"10.98.0.1\"]\ninterface = \"vip0\"\n";
    let Some(lab) = Lab::new("freebind", config) else { return };
    lab.write("fleet/a.yaml", &gateway("a", ""));
    // 10.97.0.1 is of no pool: it must be there.
    lab.run(
        r#"
        setpriv --bounding-set=-net_admin --inh-caps=-net_admin "$RINGWAY" run --config "$DIR/gateway.toml" \
            --manifests "$DIR" --listen 127.0.0.1:8088 --listen 10.97.0.1:8089 2>"$DIR/log" & PID=$!
        trap finish EXIT
        until_true 'grep -q CAP_NET_ADMIN "$DIR/log"'
        until_true 'grep -q "10.97.0.1:8089.*cannot listen" "$DIR/log" || grep -q "cannot listen.*10.97.0.1:8089" "$DIR/log"'
        until_true 'curl -s 127.0.0.1:9901/metrics | grep -q "ringway_listeners_failing{worker=.0.} 1"'
        until_true 'curl -s 127.0.0.1:9901/metrics | grep -q "^ringway_gateway_addresses 1"'
        ! on_vip0 10.98.0.1/32
        # Whoever brings it up: it is served at once.
        ip addr add 10.98.0.1/32 dev vip0
        serves 10.98.0.1 a
        ip addr add 10.97.0.1/32 dev vip0
        until_true 'curl -s 127.0.0.1:9901/metrics | grep -q "ringway_listeners_failing{worker=.0.} 0"'
        "#,
    );
}
