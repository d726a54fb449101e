//! What a host asks: update checks, pings and events, in one document.

use super::bare_id;
use super::error::{Error, excerpt};
use super::event::Event;
use super::xml::{DECLARATION, Document, Kind, Node, write_attribute};
use super::{MAX_REQUEST_BYTES, PROTOCOL};
use crate::version::Sequence;

/// `installsource` of a check that a timer started.
pub const INSTALL_SCHEDULED: &str = "scheduler";
/// `installsource` of a check that a person asked for.
pub const INSTALL_ON_DEMAND: &str = "ondemandupdate";

const KIND: Kind = Kind { root: "request", max_bytes: MAX_REQUEST_BYTES };

/// A request. Texts that are absent on the wire are empty here.
///
/// The default has what every client of the dialect sends alike; [`Request::read`] fills in nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Always [`PROTOCOL`]: any other is refused.
    pub protocol: String,
    /// Name and version of the client.
    pub version: String,
    /// The same, of its updater.
    pub updater_version: String,
    /// [`INSTALL_SCHEDULED`], [`INSTALL_ON_DEMAND`], or another client's word.
    pub install_source: String,
    /// Whether the whole machine is meant, not one user.
    pub is_machine: bool,
    /// What it runs on.
    pub os: Os,
    /// The applications asked for; a host has one.
    pub apps: Vec<AppRequest>,
}

/// The `os` element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Os {
    /// A code name; the dialect's is `Chateau`.
    pub version: String,
    /// The dialect's is `CoreOS`.
    pub platform: String,
    /// The dialect's is `APPVERSION_MACHINE`, as in `4230.2.4_x86_64`.
    pub sp: String,
    /// Sent by few; not written when empty.
    pub arch: String,
}

/// One application of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRequest {
    /// Its id, with or without braces; answers must echo it as it came.
    pub app_id: String,
    /// The version that runs.
    pub version: String,
    /// The channel.
    pub track: String,
    /// The id of this boot, in braces.
    pub boot_id: String,
    /// Name of the hardware's or cloud's flavour of the image.
    pub oem: String,
    /// Its version.
    pub oem_version: String,
    /// The first version this installation ever ran.
    pub aleph_version: String,
    /// The machine's id, as it came: some put braces around it ([`AppRequest::machine`] drops them).
    pub machine_id: String,
    /// The machine's name among people.
    pub machine_alias: String,
    /// A language.
    pub lang: String,
    /// Board, which tells the architecture.
    pub board: String,
    /// A class of hardware.
    pub hardware_class: String,
    /// Whether the client takes update_engine's own delta payloads.
    pub delta_okay: bool,
    /// Ours: the sequence of the release that runs.
    pub ota_sequence: Option<Sequence>,
    /// Ours: the slot that runs.
    pub ota_slot: Option<String>,
    /// Ours: the attempt under way.
    pub ota_attempt: Option<String>,
    /// "I am here."
    pub ping: Option<Ping>,
    /// "Is there an update?"
    pub update_check: bool,
    /// What happened since.
    pub events: Vec<Event>,
}

/// The `ping` element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Whether the application is in use; a host's always is.
    pub active: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            protocol: PROTOCOL.to_owned(),
            version: String::new(),
            updater_version: String::new(),
            install_source: INSTALL_SCHEDULED.to_owned(),
            is_machine: true,
            os: Os::default(),
            apps: Vec::new(),
        }
    }
}

impl Default for Os {
    fn default() -> Self {
        Self { version: "Chateau".to_owned(), platform: "CoreOS".to_owned(), sp: String::new(), arch: String::new() }
    }
}

impl Default for AppRequest {
    fn default() -> Self {
        Self { lang: "en-US".to_owned(), ..Self::blank() }
    }
}

impl Request {
    /// Reads a request of at most [`MAX_REQUEST_BYTES`].
    ///
    /// Whatever real clients leave out or add is taken; a protocol other than [`PROTOCOL`], numbers that are none and XML that
    /// is not well formed are refused.
    pub fn read(body: &[u8]) -> Result<Self, Error> {
        let document = Document::read(body, KIND)?;
        let root = document.root();
        if root.text("protocol") != PROTOCOL {
            return Err(Error::WrongProtocol { expected: PROTOCOL, got: excerpt(root.text("protocol")) });
        }
        Ok(Self {
            protocol: PROTOCOL.to_owned(),
            version: root.text("version").to_owned(),
            updater_version: root.text("updaterversion").to_owned(),
            install_source: root.text("installsource").to_owned(),
            is_machine: root.text("ismachine") == "1",
            os: root.child("os").map(Os::read).unwrap_or_else(Os::blank),
            apps: root.children("app").map(AppRequest::read).collect::<Result<_, _>>()?,
        })
    }

    /// The request as update_engine lays it out, our attributes after its own.
    ///
    /// Every value is written; one of more than [`super::MAX_VALUE_BYTES`] makes a request that [`Request::read`] refuses.
    pub fn write(&self) -> String {
        let mut out = DECLARATION.to_owned();
        out.push_str("<request");
        write_attribute(&mut out, "protocol", &self.protocol);
        write_attribute(&mut out, "version", &self.version);
        write_attribute(&mut out, "updaterversion", &self.updater_version);
        write_attribute(&mut out, "installsource", &self.install_source);
        write_attribute(&mut out, "ismachine", if self.is_machine { "1" } else { "0" });
        out.push_str(">\n");
        self.os.write(&mut out);
        for app in &self.apps {
            app.write(&mut out);
        }
        out.push_str("</request>\n");
        out
    }
}

impl Os {
    fn blank() -> Self {
        Self { version: String::new(), platform: String::new(), sp: String::new(), arch: String::new() }
    }

    fn read(node: Node<'_>) -> Self {
        let text = |name| node.text(name).to_owned();
        Self { version: text("version"), platform: text("platform"), sp: text("sp"), arch: text("arch") }
    }

    fn write(&self, out: &mut String) {
        out.push_str("    <os");
        write_attribute(out, "version", &self.version);
        write_attribute(out, "platform", &self.platform);
        write_attribute(out, "sp", &self.sp);
        if !self.arch.is_empty() {
            write_attribute(out, "arch", &self.arch);
        }
        out.push_str("></os>\n");
    }
}

impl AppRequest {
    /// The machine's id without braces; `None` if it sent none.
    pub fn machine(&self) -> Option<&str> {
        Some(bare_id(&self.machine_id)).filter(|id| !id.is_empty())
    }

    fn blank() -> Self {
        Self {
            app_id: String::new(),
            version: String::new(),
            track: String::new(),
            boot_id: String::new(),
            oem: String::new(),
            oem_version: String::new(),
            aleph_version: String::new(),
            machine_id: String::new(),
            machine_alias: String::new(),
            lang: String::new(),
            board: String::new(),
            hardware_class: String::new(),
            delta_okay: false,
            ota_sequence: None,
            ota_slot: None,
            ota_attempt: None,
            ping: None,
            update_check: false,
            events: Vec::new(),
        }
    }

    fn read(node: Node<'_>) -> Result<Self, Error> {
        let text = |name| node.text(name).to_owned();
        Ok(Self {
            app_id: text("appid"),
            version: text("version"),
            track: text("track"),
            boot_id: text("bootid"),
            oem: text("oem"),
            oem_version: text("oemversion"),
            aleph_version: text("alephversion"),
            machine_id: text("machineid"),
            machine_alias: text("machinealias"),
            lang: text("lang"),
            board: text("board"),
            hardware_class: text("hardware_class"),
            delta_okay: node.text("delta_okay") == "true",
            ota_sequence: read_sequence(node)?,
            ota_slot: node.non_empty("ota_slot").map(str::to_owned),
            ota_attempt: node.non_empty("ota_attempt").map(str::to_owned),
            ping: node.child("ping").map(|ping| Ping { active: ping.text("active") != "0" }),
            update_check: node.child("updatecheck").is_some(),
            events: node.children("event").map(Event::read).collect::<Result<_, _>>()?,
        })
    }

    fn write(&self, out: &mut String) {
        out.push_str("    <app");
        self.write_attributes(out);
        // The blank is update_engine's.
        out.push_str(" >\n");
        if let Some(ping) = self.ping {
            out.push_str("        <ping");
            write_attribute(out, "active", if ping.active { "1" } else { "0" });
            out.push_str("></ping>\n");
        }
        if self.update_check {
            out.push_str("        <updatecheck></updatecheck>\n");
        }
        for event in &self.events {
            out.push_str("        ");
            event.write(out);
            out.push('\n');
        }
        out.push_str("    </app>\n");
    }

    fn write_attributes(&self, out: &mut String) {
        for (name, value) in [
            ("appid", &self.app_id),
            ("version", &self.version),
            ("track", &self.track),
            ("bootid", &self.boot_id),
            ("oem", &self.oem),
            ("oemversion", &self.oem_version),
            ("alephversion", &self.aleph_version),
            ("machineid", &self.machine_id),
            ("machinealias", &self.machine_alias),
            ("lang", &self.lang),
            ("board", &self.board),
            ("hardware_class", &self.hardware_class),
        ] {
            write_attribute(out, name, value);
        }
        write_attribute(out, "delta_okay", if self.delta_okay { "true" } else { "false" });
        if let Some(sequence) = self.ota_sequence {
            write_attribute(out, "ota_sequence", &sequence.to_string());
        }
        if let Some(slot) = &self.ota_slot {
            write_attribute(out, "ota_slot", slot);
        }
        if let Some(attempt) = &self.ota_attempt {
            write_attribute(out, "ota_attempt", attempt);
        }
    }
}

fn read_sequence(node: Node<'_>) -> Result<Option<Sequence>, Error> {
    match node.non_empty("ota_sequence") {
        None => Ok(None),
        Some(text) => text
            .parse()
            .ok()
            .and_then(Sequence::new)
            .map(Some)
            .ok_or_else(|| node.bad_value("ota_sequence", "a number of at most 2^53")),
    }
}
