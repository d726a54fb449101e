//! Server and client together over loopback: on SQLite, and on a store that fails by script.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use locksmith::api::{GroupBody, Held};
use locksmith::client::{BaseUrl, Client, Error, Grant, Meaning, Options, Refused, Released, Ticket, Token};
use locksmith::fleetlock::RefusalBody;
use locksmith::names::{AttemptId, GroupName, HostId, Label};
use locksmith::semaphore::history::{Entry, Event};
use locksmith::semaphore::{Facts, Max, Outcome, Phase, UNNAMED};
use locksmith::server::{Ensured, Server, Settings, Tokens};
use locksmith::store::Store;
use locksmith::store::memory::{Fault, MemoryStore};
use locksmith::store::sqlite::SqliteStore;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server on a port of its own, with one group.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Running {
    async fn on<S: Store>(store: S, settings: Settings, max: u32) -> Self {
        let server = Server::start(store, settings).await.unwrap();
        server.ensure_group(&group(), Max::new(max).unwrap()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        Self { address, stop, serving }
    }

    async fn in_dir(dir: &Path, max: u32) -> Self {
        Self::on(SqliteStore::open(dir).unwrap(), Settings::default(), max).await
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
    }

    fn base(&self) -> BaseUrl {
        BaseUrl::parse(&format!("http://{}", self.address)).unwrap()
    }

    fn ticket(&self, host: &str, attempt: &str) -> Ticket {
        Ticket {
            base_url: self.base(),
            group: group(),
            id: HostId::parse(host).unwrap(),
            attempt: AttemptId::parse(attempt).unwrap(),
        }
    }

    async fn look(&self) -> GroupBody {
        client().admin(&self.base(), None).group(&group()).await.unwrap()
    }

    async fn holders(&self) -> Vec<String> {
        self.look().await.holders.iter().map(|holder| holder.id.to_string()).collect()
    }

    async fn history(&self) -> Vec<Entry> {
        client().admin(&self.base(), None).history(&group()).await.unwrap().entries
    }

    async fn set_max(&self, max: u32) {
        let max = Max::new(max).unwrap();
        client().admin(&self.base(), Some("ada@desk".to_owned())).set_max(&group(), max).await.unwrap();
    }

    /// Sends bytes as they are and reads all that comes back: status, headers, body.
    async fn raw(&self, request: String) -> (u16, String, String) {
        let address = self.address;
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        })
        .await
        .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String, String) {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let length = body.len();
        self.raw(format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

const FLEETLOCK: &str = "fleet-lock-protocol: true\r\n";
const FOREIGN: &str = r#"{"client_params":{"id":"zincati-1","group":"web"}}"#;

fn group() -> GroupName {
    GroupName::parse("web").unwrap()
}

fn client() -> Client {
    Client::new().unwrap()
}

async fn lock(ticket: &Ticket) -> Result<Grant, Error> {
    client().lock(ticket, &Facts::default()).await
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) -> Refused {
    match answer.unwrap_err() {
        Error::Refused(refused) => *refused,
        other => panic!("expected a refusal, got {other}"),
    }
}

fn lease_of(seconds: u64) -> Settings {
    Settings { lease: Duration::from_secs(seconds), ..Settings::default() }
}

/// Waits until something is so, at most 10 s.
async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !so().await {
        assert!(started.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_host_goes_through_its_phases_and_its_story_is_in_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    let ticket = server.ticket("host-a", "attempt-a");
    let version = Some(Label::parse("version", "1.2.0").unwrap());
    let facts = Facts { version, sequence: Some(12), ..Facts::default() };
    let grant = client().lock(&ticket, &facts).await.unwrap();
    assert_eq!((grant.phase, grant.lease_s), (Some(Phase::Draining), Some(120)));
    client().renew(&grant).await.unwrap();
    let acknowledged = client().set_phase_rebooting(&grant, Some(Duration::from_secs(600))).await.unwrap();
    let grant = acknowledged.grant();
    let holder = &server.look().await.holders[0];
    assert_eq!((holder.phase, holder.deadline_s), (Phase::Rebooting, Some(600)));
    assert_eq!(holder.version.as_ref().unwrap().as_str(), "1.2.0", "what was told at first is kept");
    assert_eq!(client().release(&ticket, Outcome::Ok).await.unwrap(), Released::Freed);
    assert_eq!(client().release(&ticket, Outcome::Ok).await.unwrap(), Released::HeldNone);
    assert_eq!(refused(client().renew(grant).await).meaning, Meaning::NotHeld);
    let story: Vec<Event> = server.history().await.iter().rev().map(|entry| entry.event).collect();
    assert_eq!(story, [Event::Created, Event::Granted, Event::Rebooting, Event::Released]);
    assert_eq!(server.history().await[0].outcome, Some(Outcome::Ok));
    server.stop().await;
}

#[tokio::test]
async fn held_places_survive_a_restart_of_the_server_and_are_released_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 2).await;
    let (a, b) = (server.ticket("host-a", "attempt-a"), server.ticket("host-b", "attempt-b"));
    let grant = lock(&a).await.unwrap();
    client().set_phase_rebooting(&grant, None).await.unwrap();
    let second = lock(&b).await.unwrap();
    let before = server.look().await;
    server.stop().await;

    let server = Running::in_dir(dir.path(), 7).await;
    assert_eq!(server.look().await, before, "a group that exists keeps its max, its holders and its revision");
    let full = server.ticket("host-c", "attempt-c");
    assert_eq!(refused(lock(&full).await).meaning, Meaning::Full);
    // The same attempt, asked of the new process under its new address.
    let again = lock(&server.ticket("host-b", "attempt-b")).await.unwrap();
    assert_eq!(again.fence, second.fence);
    assert_eq!(client().release(&server.ticket("host-a", "attempt-a"), Outcome::Ok).await.unwrap(), Released::Freed);
    assert_eq!(server.holders().await, ["host-b"]);
    server.stop().await;
}

#[tokio::test]
async fn a_draining_holder_that_falls_silent_is_freed_and_a_rebooting_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::on(SqliteStore::open(dir.path()).unwrap(), lease_of(1), 3).await;
    let alive = lock(&server.ticket("alive", "attempt-1")).await.unwrap();
    let gone = lock(&server.ticket("gone", "attempt-2")).await.unwrap();
    let down = lock(&server.ticket("down", "attempt-3")).await.unwrap();
    client().set_phase_rebooting(&down, None).await.unwrap();
    until("the silent one is freed", async || {
        client().renew(&alive).await.unwrap();
        !server.holders().await.contains(&"gone".to_owned())
    })
    .await;
    assert_eq!(server.holders().await, ["alive", "down"]);
    assert_eq!(server.history().await[0].event, Event::LeaseExpired);
    let lost = refused(client().set_phase_rebooting(&gone, None).await);
    assert_eq!((lost.meaning, lost.status), (Meaning::NotHeld, 409));
    assert!(lost.value.contains("do not reboot"), "{}", lost.value);
    server.stop().await;
}

#[tokio::test]
async fn design_11_17_a_restarted_server_waits_a_whole_lease_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::on(SqliteStore::open(dir.path()).unwrap(), lease_of(1), 1).await;
    lock(&server.ticket("host-a", "attempt-a")).await.unwrap();
    server.stop().await;
    // Longer than the lease, during which nobody was there to be renewed with.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let server = Running::on(SqliteStore::open(dir.path()).unwrap(), lease_of(1), 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.holders().await, ["host-a"]);
    // Nobody asks it anything about the group: it looks by itself.
    until("the lease ends", async || server.history().await[0].event == Event::LeaseExpired).await;
    server.stop().await;
}

#[tokio::test]
async fn an_answer_lost_after_the_commit_is_healed_by_asking_again() {
    let store = Arc::new(MemoryStore::default());
    let server = Running::on(Arc::clone(&store), Settings::default(), 1).await;
    store.script([Fault::LostAnswer]);
    let ticket = server.ticket("host-a", "attempt-a");
    let out = refused(lock(&ticket).await);
    assert_eq!((out.meaning, out.status, out.kind.as_str()), (Meaning::ServerTrouble, 503, "store_out"));
    assert!(out.retry_after.is_some());
    let grant = lock(&ticket).await.unwrap();
    assert_eq!(lock(&ticket).await.unwrap().fence, grant.fence);
    assert_eq!(server.holders().await, ["host-a"]);
    store.script([Fault::LostAnswer]);
    refused(client().release(&ticket, Outcome::Ok).await);
    assert_eq!(client().release(&ticket, Outcome::Ok).await.unwrap(), Released::HeldNone);
    assert_eq!(server.holders().await, [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn lost_swaps_do_not_reach_hosts_until_they_do_not_end() {
    let store = Arc::new(MemoryStore::default());
    let server = Running::on(Arc::clone(&store), Settings::default(), 1).await;
    store.script([Fault::Lost; 6]);
    let ticket = server.ticket("host-a", "attempt-a");
    lock(&ticket).await.unwrap();
    store.script([Fault::Lost; 16]);
    let out = refused(client().release(&ticket, Outcome::Ok).await);
    assert_eq!((out.status, out.kind.as_str()), (503, "store_out"));
    assert_eq!(client().release(&ticket, Outcome::Ok).await.unwrap(), Released::Freed);
    let (_, _, metrics) = server.get("/metrics").await;
    assert!(metrics.contains("locksmith_swap_conflicts_total{group=\"web\"} 21\n"), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_is_out_is_said_to_be_out_and_nothing_is_granted() {
    let store = Arc::new(MemoryStore::default());
    let server = Running::on(Arc::clone(&store), Settings::default(), 1).await;
    assert_eq!(server.get("/healthz").await.0, 200);
    store.set_down(true);
    let (status, head, body) = server.post("/v1/pre-reboot", FLEETLOCK, FOREIGN).await;
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: 10"), "{head}");
    assert!(body.contains("\"kind\":\"store_out\"") && body.contains("is out: it is switched off"), "{body}");
    assert_eq!(server.get("/healthz").await.0, 503);
    assert_eq!(server.get("/metrics").await.0, 200);
    store.set_down(false);
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(server.holders().await, [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_can_be_read_but_not_written_is_not_healthy_until_something_is_written() {
    let store = Arc::new(MemoryStore::default());
    let server = Running::on(Arc::clone(&store), Settings::default(), 1).await;
    let made = store.writes();
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(store.writes(), made, "a store that is well is only read");
    // As a full disk does.
    store.script([Fault::Refused; 3]);
    let ticket = server.ticket("host-a", "attempt-a");
    assert_eq!(refused(lock(&ticket).await).kind, "store_out");
    for _ in 0..2 {
        let (status, _, body) = server.get("/healthz").await;
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("\"kind\":\"store_out\"") && body.contains("its script says so"), "{body}");
    }
    assert_eq!(store.writes(), made);
    let before = server.look().await;
    assert_eq!(server.get("/healthz").await.0, 200, "nobody has to be refused once more before it is well again");
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(store.writes(), made + 1, "once is enough");
    assert_eq!(server.look().await, before, "and what was written changes nothing");
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_hangs_delays_every_answer_once_however_many_groups_there_are() {
    let store = Arc::new(MemoryStore::default());
    let server = Running::on(Arc::clone(&store), Settings::default(), 1).await;
    let (client, base) = (client(), server.base());
    for name in ["app", "db"] {
        let name = GroupName::parse(name).unwrap();
        client.admin(&base, None).create_group(&name, Max::new(1).unwrap()).await.unwrap();
    }
    store.set_hanging(true);
    let timed = async |path: &str| {
        let started = Instant::now();
        let (status, _, body) = server.get(path).await;
        (status, started.elapsed(), body)
    };
    let (metrics, groups, history, unknown, health) = tokio::join!(
        timed("/metrics"),
        timed("/v1/groups"),
        timed("/v1/groups/web/history"),
        timed("/v1/groups/unknown"),
        timed("/healthz")
    );
    assert!(metrics.0 == 200 && metrics.1 < Duration::from_secs(8), "{metrics:?}");
    for group in ["app", "db", "web"] {
        let counted = format!("locksmith_store_errors_total{{group=\"{group}\"}} 0\n");
        assert!(metrics.2.contains(&counted), "what needs no store is told: {}", metrics.2);
    }
    for answer in [groups, history, unknown, health] {
        assert!(answer.0 == 503 && answer.1 < Duration::from_secs(14), "{answer:?}");
        assert!(answer.2.contains("did not answer within 10 s"), "{answer:?}");
    }
    store.set_hanging(false);
    assert_eq!(server.get("/v1/groups").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_plain_fleetlock_client_locks_and_unlocks_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    for _ in 0..2 {
        let (status, _, body) = server.post("/v1/pre-reboot", FLEETLOCK, FOREIGN).await;
        assert_eq!((status, body.as_str()), (200, r#"{"phase":"rebooting"}"#));
    }
    let other = FOREIGN.replace("zincati-1", "zincati-2");
    let (status, head, body) = server.post("/v1/pre-reboot", FLEETLOCK, &other).await;
    assert_eq!(status, 423);
    assert!(head.contains("retry-after: 30") && head.contains("connection: close"), "{head}");
    let refusal: RefusalBody = serde_json::from_str(&body).unwrap();
    assert_eq!((refusal.kind.as_str(), refusal.place, refusal.max), ("full", Some(1), Some(1)));
    assert_eq!(refusal.holders[0].id.as_str(), "zincati-1");
    assert!(refusal.value.contains("by zincati-1 (rebooting since 2"), "{}", refusal.value);
    let (status, _, body) = server.post("/v1/steady-state", FLEETLOCK, FOREIGN).await;
    assert_eq!((status, body.as_str()), (200, r#"{"released":true}"#));
    let (status, _, _) = server.post("/v1/pre-reboot", FLEETLOCK, &other).await;
    assert_eq!(status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_release_by_somebody_who_holds_nothing_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    lock(&server.ticket("host-a", "attempt-a")).await.unwrap();
    let before = server.look().await;
    let stranger = server.ticket("host-b", "attempt-b");
    assert_eq!(client().release(&stranger, Outcome::Ok).await.unwrap(), Released::HeldNone);
    let late = server.ticket("host-a", "attempt-of-last-week");
    assert_eq!(client().release(&late, Outcome::Aborted).await.unwrap(), Released::HeldNone);
    let (status, _, body) = server.post("/v1/steady-state", FLEETLOCK, &FOREIGN.replace("zincati-1", "host-a")).await;
    assert_eq!((status, body.as_str()), (200, r#"{"released":false}"#));
    assert_eq!(server.look().await, before, "not even the revision");
    server.stop().await;
}

#[tokio::test]
async fn two_hosts_with_one_machine_id_are_told_apart_by_their_attempts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 5).await;
    lock(&server.ticket("clone", "attempt-1")).await.unwrap();
    let second = refused(lock(&server.ticket("clone", "attempt-2")).await);
    assert_eq!((second.meaning, second.status), (Meaning::IdInUse, 409));
    assert!(second.value.contains("two hosts with one id"), "{}", second.value);
    assert_eq!(server.look().await.waiting_total, 0, "no place comes by waiting");
    server.stop().await;
}

#[tokio::test]
async fn an_attempt_id_is_in_no_answer_to_anybody_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    let ticket = server.ticket("host-a", "capability-of-a");
    let grant = lock(&ticket).await.unwrap();
    client().set_phase_rebooting(&grant, None).await.unwrap();
    let mut seen = String::new();
    for path in ["/v1/groups", "/v1/groups/web", "/v1/groups/web/history", "/metrics"] {
        seen += &server.get(path).await.2;
    }
    seen += &server.post("/v1/pre-reboot", FLEETLOCK, FOREIGN).await.2;
    seen += &server.post("/v1/pre-reboot", FLEETLOCK, &FOREIGN.replace("zincati-1", "host-a")).await.2;
    seen += &server.post("/v1/groups/web/unlock", FLEETLOCK, r#"{"id":"host-a"}"#).await.2;
    assert!(seen.contains(ticket.attempt.tag().as_str()), "{seen}");
    assert!(!seen.contains("capability-of-a"), "{seen}");
    server.stop().await;
}

#[tokio::test]
async fn a_group_that_cannot_be_used_hides_no_other_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let other_program = rusqlite::Connection::open(dir.path().join("locksmith.sqlite")).unwrap();
    let server = Running::on(store, Settings::default(), 1).await;
    let (client, base) = (client(), server.base());
    let admin = client.admin(&base, None);
    let db = GroupName::parse("db").unwrap();
    admin.create_group(&db, Max::new(2).unwrap()).await.unwrap();
    other_program.execute("UPDATE groups SET document = '{\"format\":9}' WHERE name = 'web'", []).unwrap();
    other_program.execute("INSERT INTO groups SELECT 'no name', 1, document FROM groups WHERE name = 'db'", []).unwrap();

    let list = admin.groups().await.unwrap();
    assert_eq!(list.groups.iter().map(|group| (group.group.as_str(), group.max)).collect::<Vec<_>>(), [("db", 2)]);
    let [troubled] = list.troubled.as_slice() else { panic!("{list:?}") };
    assert_eq!((troubled.group.as_str(), troubled.kind.as_str()), ("web", "unusable_group"));
    let newer = "the document has format 9, this locksmith reads up to 1: start the newer locksmithd";
    assert!(troubled.value.ends_with(newer), "{}", troubled.value);

    let alone = refused(admin.group(&group()).await);
    assert_eq!((alone.status, alone.kind.as_str(), alone.value.as_str()), (503, "unusable_group", troubled.value.as_str()));
    let host = refused(lock(&server.ticket("host-a", "attempt-a")).await);
    assert_eq!((host.meaning, host.retry_after), (Meaning::ServerTrouble, Some(Duration::from_secs(300))));
    assert_eq!(server.get("/healthz").await.0, 200, "the store is well");
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_the_protocol_is_refused_with_its_own_status() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    let revision = server.look().await.revision;
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(70_000));
    let unknown = FOREIGN.replace("web", "nope");
    let outside = FOREIGN.replace("web", "a/b");
    for path in ["/v1/pre-reboot", "/v1/steady-state"] {
        let cases = [
            ("", FOREIGN, 400, "missing_header"),
            ("fleet-lock-protocol: false\r\n", FOREIGN, 400, "missing_header"),
            (FLEETLOCK, "", 400, "bad_request"),
            (FLEETLOCK, "{", 400, "bad_request"),
            (FLEETLOCK, outside.as_str(), 400, "bad_request"),
            (FLEETLOCK, unknown.as_str(), 403, "unknown_group"),
            (FLEETLOCK, huge.as_str(), 413, "too_large"),
        ];
        for (headers, body, status, kind) in cases {
            let (found, head, text) = server.post(path, headers, body).await;
            let refusal: RefusalBody = serde_json::from_str(&text).expect(&text);
            assert_eq!((found, refusal.kind.as_str()), (status, kind), "{path} {headers}{body:.80}");
            assert!(head.contains("content-type: application/json"), "{head}");
            assert!(!refusal.value.is_empty());
        }
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{FLEETLOCK}connection: close\r\n\r\n");
            let (status, head, text) = server.raw(request).await;
            assert_eq!(status, 405, "{method}");
            assert!(head.contains("allow: post") && text.contains("method_not_allowed"), "{head} {text}");
        }
        let chunk = "x".repeat(70_000);
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\n{FLEETLOCK}connection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n",
            chunk.len()
        );
        assert_eq!(server.raw(request).await.0, 413, "a body without a length");
    }
    assert_eq!(server.get("/v1/nothing").await.0, 404);
    assert_eq!(server.get("/v1/groups/nope").await.0, 404);
    assert_eq!(server.get("/v1/groups/a%2Fb").await.0, 400);
    assert_eq!(server.get("/v1/groups/web/history?limit=many").await.0, 400);
    for (method, path) in [
        ("GET", ""),
        ("GET", "/history"),
        ("PUT", "/max"),
        ("POST", "/lock"),
        ("POST", "/unlock"),
        ("GET", "/history?limit=many"),
    ] {
        let body = r#"{"id":"h","max":1}"#;
        let head = format!("{method} /v1/groups/%ff{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{FLEETLOCK}");
        let (status, _, text) = server.raw(format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
        let refusal: RefusalBody = serde_json::from_str(&text).expect(&text);
        assert_eq!((status, refusal.kind.as_str()), (400, "bad_request"), "{path}");
        assert!(!refusal.value.is_empty());
    }
    let (_, _, metrics) = server.get("/metrics").await;
    let counted = |line: &str| metrics.lines().any(|found| found.starts_with(line));
    assert!(counted("locksmith_answers_total{endpoint=\"groups\",kind=\"bad_request\"} 8"), "{metrics}");
    assert_eq!(server.look().await.revision, revision, "none of it was written");
    server.stop().await;
}

#[tokio::test]
async fn a_web_page_in_a_browser_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    lock(&server.ticket("host-a", "attempt-a")).await.unwrap();
    let before = server.look().await;
    let asked = async |method: &str, path: &str, headers: &str, body: &str| {
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n");
        let (status, _, text) = server.raw(head + body).await;
        let kind = serde_json::from_str(&text).map(|refusal: RefusalBody| refusal.kind);
        (status, kind.unwrap_or_default())
    };
    let writes = [
        ("POST", "/v1/groups", r#"{"group":"db","max":1}"#),
        ("PUT", "/v1/groups/web/max", r#"{"max":9}"#),
        ("POST", "/v1/groups/web/unlock", r#"{"id":"host-a"}"#),
        ("POST", "/v1/groups/web/lock", r#"{"id":"host-b"}"#),
        ("POST", "/v1/pre-reboot", FOREIGN),
        ("POST", "/v1/steady-state", FOREIGN),
    ];
    for (method, path, body) in writes {
        // What a form or a fetch without leave can send, and what a page can whose name leads here.
        let stray = asked(method, path, "content-type: text/plain\r\norigin: https://page.example\r\n", body).await;
        assert_eq!(stray, (400, "missing_header".to_owned()), "{path}");
        let rebound = format!("{FLEETLOCK}content-type: application/json\r\norigin: http://page.example:8085\r\n");
        assert_eq!(asked(method, path, &rebound, body).await, (403, "forbidden".to_owned()), "{path}");
        let leave = "origin: https://page.example\r\naccess-control-request-headers: fleet-lock-protocol\r\n";
        assert_eq!(asked("OPTIONS", path, leave, "").await.0, 405, "{path}");
    }
    assert_eq!(server.look().await, before);
    assert_eq!(asked("POST", "/v1/groups/web/unlock", FLEETLOCK, r#"{"id":"host-a"}"#).await.0, 200, "a program may");
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    let head = format!("POST /v1/pre-reboot HTTP/1.1\r\nhost: x\r\n{FLEETLOCK}content-length: 50\r\n\r\n{{");
    let (status, _, body) = server.raw(head).await;
    assert_eq!(status, 408, "{body}");
    assert!(body.contains("did not arrive within 10 s"), "{body}");
    server.stop().await;
}

#[tokio::test]
async fn tokens_decide_who_may_lock_and_who_may_change() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    std::fs::write(&file, "admin admin-token-0123456\nhost host-token-01234567\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = Settings { tokens: Some(Tokens::from_file(&file).unwrap()), ..Settings::default() };
    let server = Running::on(MemoryStore::default(), settings, 1).await;
    let with = |token: &str| Options::default().token(&server.base(), Token::parse(token).unwrap()).build().unwrap();
    let ticket = server.ticket("host-a", "attempt-a");
    let none = refused(lock(&ticket).await);
    assert_eq!((none.meaning, none.status), (Meaning::NotAllowed, 401));
    let wrong = refused(with("no-token-of-this-server").lock(&ticket, &Facts::default()).await);
    assert_eq!(wrong.status, 401);
    let host = with("host-token-01234567");
    host.lock(&ticket, &Facts::default()).await.unwrap();
    let base = server.base();
    let max = Max::new(2).unwrap();
    assert_eq!(refused(host.admin(&base, None).set_max(&group(), max).await).status, 403);
    let id = HostId::parse("host-a").unwrap();
    assert_eq!(refused(host.admin(&base, None).unlock(&group(), &id, None).await).status, 403);
    let admin = with("admin-token-0123456");
    admin.admin(&base, None).set_max(&group(), max).await.unwrap();
    assert_eq!(admin.admin(&base, None).group(&group()).await.unwrap().holders.len(), 1);
    assert_eq!(server.get("/v1/groups").await.0, 401);
    assert_eq!(server.get("/v1/groups/%ff").await.0, 401, "what cannot be read is no way past the token");
    assert_eq!((server.get("/healthz").await.0, server.get("/metrics").await.0), (200, 200));
    server.stop().await;
}

#[tokio::test]
async fn operators_free_hold_and_make_groups_and_all_of_it_is_in_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    let (client, base) = (client(), server.base());
    let admin = client.admin(&base, Some("ada@desk".to_owned()));
    let grant = lock(&server.ticket("dead", "attempt-d")).await.unwrap();
    client.set_phase_rebooting(&grant, None).await.unwrap();
    let dead = HostId::parse("dead").unwrap();
    let freed = admin.unlock(&group(), &dead, Some("disk dead, ticket 42".to_owned())).await.unwrap();
    assert_eq!((freed.id.clone(), freed.phase), (dead.clone(), Phase::Rebooting));
    let again = refused(admin.unlock(&group(), &dead, None).await);
    assert_eq!((again.status, again.kind.as_str()), (404, "no_such_holder"));
    let held = admin.hold(&group(), &HostId::parse("kept").unwrap()).await.unwrap();
    assert_eq!((held.fence, held.already_since), (server.look().await.holders[0].fence, None));
    admin.set_max(&group(), Max::new(3).unwrap()).await.unwrap();
    let history = server.history().await;
    let told = |event: Event| history.iter().find(|entry| entry.event == event).unwrap();
    let forced = told(Event::ForcedUnlock);
    assert_eq!(forced.reason.as_ref().unwrap().as_str(), "disk dead, ticket 42");
    assert_eq!((forced.by.as_ref().unwrap().as_str(), forced.phase), ("ada@desk", Some(Phase::Rebooting)));
    assert_eq!(told(Event::Held).by.as_ref().unwrap().as_str(), "ada@desk");
    let max = told(Event::MaxChanged);
    assert_eq!((max.old_max, max.max), (Some(Max::new(1).unwrap()), Some(Max::new(3).unwrap())));

    let db = GroupName::parse("db").unwrap();
    admin.create_group(&db, Max::new(2).unwrap()).await.unwrap();
    assert_eq!(refused(admin.create_group(&db, Max::new(9).unwrap()).await).kind, "group_exists");
    let names: Vec<String> = admin.groups().await.unwrap().groups.iter().map(|group| group.group.to_string()).collect();
    assert_eq!(names, ["db", "web"]);
    server.stop().await;
}

#[tokio::test]
async fn a_hosts_boot_neither_ends_nor_uses_an_operators_hold() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    let (client, base) = (client(), server.base());
    let admin = client.admin(&base, Some("ada@desk".to_owned()));
    let id = HostId::parse("zincati-1").unwrap();
    admin.hold(&group(), &id).await.unwrap();
    let (status, _, body) = server.post("/v1/steady-state", FLEETLOCK, FOREIGN).await;
    assert_eq!((status, body.as_str()), (200, r#"{"released":false}"#), "a boot under the hold does not fail");
    let (status, _, body) = server.post("/v1/pre-reboot", FLEETLOCK, FOREIGN).await;
    let refusal: RefusalBody = serde_json::from_str(&body).unwrap();
    assert_eq!((status, refusal.kind.as_str()), (409, "id_in_use"));
    assert!(refusal.value.starts_with("ada@desk holds the place of zincati-1"), "{}", refusal.value);
    assert_eq!(server.holders().await, ["zincati-1"]);
    admin.unlock(&group(), &id, None).await.unwrap();
    assert_eq!(server.post("/v1/pre-reboot", FLEETLOCK, FOREIGN).await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn who_holds_a_place_is_told_since_when_if_the_server_knows_his_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 3).await;
    let (client, base) = (client(), server.base());
    let id = |text| HostId::parse(text).unwrap();
    let ada = client.admin(&base, Some("ada@desk".to_owned()));
    let taken = ada.hold(&group(), &id("h1")).await.unwrap();
    assert_eq!(taken.already_since, None);
    let since = server.look().await.holders[0].since;
    assert_eq!(ada.hold(&group(), &id("h1")).await.unwrap(), Held { already_since: Some(since), ..taken });
    for nobody in [None, Some(UNNAMED.to_owned())] {
        let admin = client.admin(&base, nobody);
        let host = id(if server.holders().await.len() == 1 { "h2" } else { "h3" });
        admin.hold(&group(), &host).await.unwrap();
        let again = refused(admin.hold(&group(), &host).await);
        assert_eq!((again.status, again.kind.as_str()), (409, "id_in_use"));
        assert!(again.value.starts_with(&format!("{host} is held by an operator in group \"web\" since")), "{}", again.value);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_lowered_maximum_drains_over_the_wire_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 2).await;
    let (a, b) = (server.ticket("host-a", "attempt-a"), server.ticket("host-b", "attempt-b"));
    lock(&a).await.unwrap();
    lock(&b).await.unwrap();
    server.set_max(1).await;
    client().release(&a, Outcome::Ok).await.unwrap();
    let c = server.ticket("host-c", "attempt-c");
    assert_eq!(refused(lock(&c).await).meaning, Meaning::Full);
    client().release(&b, Outcome::Ok).await.unwrap();
    lock(&c).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_contenders_all_get_their_turn_and_never_too_many_at_once() {
    const HOSTS: usize = 60;
    const MAX: u32 = 3;
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(Running::in_dir(dir.path(), MAX).await);
    let hosts: Vec<_> = (0..HOSTS)
        .map(|number| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let ticket = server.ticket(&format!("host-{number}"), &format!("attempt-{number}"));
                loop {
                    match lock(&ticket).await {
                        Ok(grant) => {
                            client().set_phase_rebooting(&grant, None).await.unwrap();
                            break;
                        }
                        Err(Error::Refused(refused)) => assert_eq!(refused.meaning, Meaning::Full),
                        Err(other) => panic!("{other}"),
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                assert_eq!(client().release(&ticket, Outcome::Ok).await.unwrap(), Released::Freed);
            })
        })
        .collect();
    for host in hosts {
        host.await.unwrap();
    }
    let base = server.base();
    let mut held = 0_i64;
    let mut most = 0;
    let mut last_fence = 0;
    let entries = client().admin(&base, None).history(&group()).await.unwrap().entries;
    let raw = server.get("/v1/groups/web/history?limit=1000").await.2;
    assert!(entries.len() == 100 && raw.len() > 1000);
    let all: locksmith::api::HistoryBody = serde_json::from_str(&raw).unwrap();
    assert_eq!(all.entries.len(), 1 + HOSTS * 3);
    for entry in all.entries.iter().rev() {
        match entry.event {
            Event::Granted => {
                held += 1;
                assert!(entry.fence.unwrap() > last_fence, "fences rise");
                last_fence = entry.fence.unwrap();
            }
            Event::Released => held -= 1,
            _ => {}
        }
        most = most.max(held);
    }
    assert_eq!((held, most), (0, i64::from(MAX)));
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test]
async fn metrics_count_answers_events_and_holders() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    let ticket = server.ticket("host-a", "attempt-a");
    lock(&ticket).await.unwrap();
    refused(lock(&server.ticket("host-b", "attempt-b")).await);
    client().release(&ticket, Outcome::RolledBack).await.unwrap();
    lock(&server.ticket("host-b", "attempt-b")).await.unwrap();
    server.set_max(2).await;
    let base = server.base();
    client().admin(&base, None).hold(&group(), &HostId::parse("kept").unwrap()).await.unwrap();
    let (status, head, text) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain"), "{head}");
    for line in [
        "locksmith_answers_total{endpoint=\"pre-reboot\",kind=\"ok\"} 2",
        "locksmith_answers_total{endpoint=\"pre-reboot\",kind=\"full\"} 1",
        "locksmith_group_max{group=\"web\"} 2",
        "locksmith_group_holders{group=\"web\",phase=\"draining\"} 1",
        "locksmith_group_holders{group=\"web\",phase=\"rebooting\"} 0",
        "locksmith_group_holders{group=\"web\",phase=\"held\"} 1",
        "locksmith_group_waiting{group=\"web\"} 0",
        "locksmith_events_total{group=\"web\",event=\"granted\"} 2",
        "locksmith_releases_total{group=\"web\",outcome=\"rolled-back\"} 1",
        "locksmith_store_errors_total{group=\"web\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_group_that_exists_keeps_its_maximum() {
    let server = Server::start(MemoryStore::default(), Settings::default()).await.unwrap();
    let three = Max::new(3).unwrap();
    assert_eq!(server.ensure_group(&group(), three).await.unwrap(), Ensured::Created);
    let five = Max::new(5).unwrap();
    assert_eq!(server.ensure_group(&group(), five).await.unwrap(), Ensured::Exists(three));
}

#[tokio::test]
async fn a_client_that_hangs_on_does_not_stop_the_server_from_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::in_dir(dir.path(), 1).await;
    let idle = TcpStream::connect(server.address).unwrap();
    lock(&server.ticket("host-a", "attempt-a")).await.unwrap();
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop(idle);
}
