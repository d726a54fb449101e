//! Events a host reports and the codes that say why something failed.
//!
//! The numbers are on the wire of every server in the field: they are never reordered, and a number not known here is kept.
//! Sources: the Omaha 3 protocol document for events, update_engine's table of action codes for errors.

use std::fmt;

use super::displayable;
use super::error::Error;
use super::xml::{Node, write_attribute};

/// An enum with numbers, a name for each, and a place for numbers it does not know; one table holds it all.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($number:literal $entry:ident $meaning:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = $meaning] $entry,)*
            /// A number without a name here, kept as it came.
            Other(u32),
        }

        impl $name {
            /// Every entry with a name, by number.
            pub const NAMED: &[Self] = &[$(Self::$entry,)*];

            /// The entry of that number.
            pub const fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$entry,)*
                    other => Self::Other(other),
                }
            }

            /// Its number on the wire.
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$entry => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// Its name, if it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$entry => Some(stringify!($entry)),)*
                    Self::Other(_) => None,
                }
            }

            /// What it means, in a sentence for people, if it is known.
            pub const fn meaning(self) -> Option<&'static str> {
                match self {
                    $(Self::$entry => Some($meaning),)*
                    Self::Other(_) => None,
                }
            }
        }
    };
}

numbered! {
    /// What an event is about.
    EventType {
        0 Unknown "Nothing said.",
        1 DownloadComplete "A download has ended.",
        2 InstallComplete "An installation has ended.",
        3 UpdateComplete "An update has ended; with success and reboot, the new version runs.",
        4 Uninstall "The application was removed.",
        5 DownloadStarted "A download begins.",
        6 InstallStarted "An installation begins.",
        9 NewInstallStarted "The installation of a new application begins.",
        10 SetupStarted "The updater's own setup begins.",
        11 SetupFinished "The updater's own setup has ended.",
        12 UpdateStarted "An update begins.",
        13 UpdateDownloadStarted "The download of an update begins.",
        14 UpdateDownloadFinished "The download of an update has ended.",
        15 UpdateInstallerStarted "The installer of an update begins.",
        16 SetupUpdateBegin "The updater's own update begins.",
        17 SetupUpdateComplete "The updater's own update has ended.",
        20 RegisterProduct "A product was registered.",
        30 OemFirstCheck "First check after an OEM installation.",
        40 AppCommandStarted "A command of the application begins.",
        41 AppCommandEnded "A command of the application has ended.",
        50 UpdateCheckFailure "A check for updates failed.",
        54 RebootedAfterUpdate "ChromeOS: rebooted into the new version.",
        100 SetupFailure "The updater's own setup failed.",
        102 ComServerFailure "The updater's COM server failed.",
        103 SetupUpdateFailure "The updater's own update failed.",
        800 Installed "Nebraska: installed, completion held back by the host.",
    }
}

numbered! {
    /// How it ended.
    EventResult {
        0 Error "It failed; the error code says why.",
        1 Success "It worked.",
        2 SuccessReboot "It worked and the host has rebooted into it.",
        3 SuccessRestartBrowser "It worked and the browser restarts.",
        4 Cancelled "A person stopped it.",
        5 InstallerErrorMsi "An MSI installer failed.",
        6 InstallerErrorOther "Another installer failed.",
        7 NoUpdate "There was no update.",
        8 InstallerErrorSystem "The system's installer failed.",
        9 UpdateDeferred "Put off; it will be tried later.",
        10 HandoffError "It was not handed over.",
    }
}

numbered! {
    /// Why an update failed: update_engine's action codes (`kActionCode…`), under its names.
    ActionCode {
        0 Success "It did not fail.",
        1 Error "Something without a code of its own failed.",
        2 OmahaRequestError "The check failed.",
        3 OmahaResponseHandlerError "The answer could not be acted on.",
        4 FilesystemCopierError "The running slot could not be copied.",
        5 PostinstallRunnerError "The step after writing failed.",
        6 SetBootableFlagError "The slot could not be marked bootable.",
        7 InstallDeviceOpenError "The slot could not be opened.",
        8 KernelDeviceOpenError "The kernel's place could not be opened.",
        9 DownloadTransferError "The payload could not be transferred.",
        10 PayloadHashMismatchError "The payload has another hash.",
        11 PayloadSizeMismatchError "The payload has another size.",
        12 DownloadPayloadVerificationError "The payload could not be verified.",
        13 DownloadNewPartitionInfoError "The payload does not say what the partition will be.",
        14 DownloadWriteError "The slot could not be written.",
        15 NewRootfsVerificationError "The slot reads back as something else.",
        16 NewKernelVerificationError "The kernel reads back as something else.",
        17 SignedDeltaPayloadExpectedError "A delta without a signature.",
        18 DownloadPayloadPubKeyVerificationError "The payload is signed by another key.",
        19 PostinstallBootedFromFirmwareB "Booted from the second firmware.",
        20 DownloadStateInitializationError "A download could not be set up.",
        21 DownloadInvalidMetadataMagicString "The payload does not begin as a payload.",
        22 DownloadSignatureMissingInManifest "The payload's manifest has no signature.",
        23 DownloadManifestParseError "The payload's manifest cannot be read.",
        24 DownloadMetadataSignatureError "The metadata's signature cannot be read.",
        25 DownloadMetadataSignatureVerificationError "The metadata's signature could not be verified.",
        26 DownloadMetadataSignatureMismatch "The metadata's signature is another's.",
        27 DownloadOperationHashVerificationError "An operation's hash could not be verified.",
        28 DownloadOperationExecutionError "An operation failed.",
        29 DownloadOperationHashMismatch "An operation's data has another hash.",
        30 OmahaRequestEmptyResponseError "The server answered with nothing.",
        31 OmahaRequestXMLParseError "The server's answer is not XML.",
        32 DownloadInvalidMetadataSize "The metadata has an impossible size.",
        33 DownloadInvalidMetadataSignature "The metadata's signature is no signature.",
        34 OmahaResponseInvalid "The server's answer lacks something or refuses the host.",
        35 OmahaUpdateIgnoredPerPolicy "Policy says not to take this update.",
        36 OmahaUpdateDeferredPerPolicy "Policy says to take this update later.",
        37 OmahaErrorInHTTPResponse "The server answered with an HTTP error.",
        38 DownloadOperationHashMissingError "An operation has no hash.",
        39 DownloadMetadataSignatureMissingError "The metadata has no signature.",
        40 OmahaUpdateDeferredForBackoff "Waiting before the payload is tried again.",
        41 PostinstallPowerwashError "The wipe after the update could not be set up.",
        42 NewPCRPolicyVerificationError "The new TPM policy could not be verified.",
        43 NewPCRPolicyHTTPError "The new TPM policy could not be delivered.",
        44 RollbackError "The host came back up on the old version.",
        100 DownloadIncomplete "The download has not ended.",
    }
}

/// An `errorcode` as it stands on the wire: an [`ActionCode`] in the low bits, [`Flags`] in the top four, read as a signed number.
///
/// ```
/// use manifests::omaha::{ActionCode, ErrorCode};
///
/// let code = ErrorCode::from_wire(268_435_490);
/// assert_eq!(code.action(), ActionCode::OmahaResponseInvalid);
/// assert_eq!(code.describe(), "OmahaResponseInvalid (34; TestOmahaUrl)");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(i32);

impl ErrorCode {
    /// update_engine adds the HTTP status to this.
    const HTTP_BASE: u32 = 2000;
    /// What update_engine reports for a status that is none.
    const HTTP_ODD: u32 = 999;

    /// The code of that number on the wire.
    pub const fn from_wire(number: i32) -> Self {
        Self(number)
    }

    /// The number on the wire.
    pub const fn to_wire(self) -> i32 {
        self.0
    }

    /// "The server answered with that HTTP status."
    pub fn http(status: u16) -> Self {
        let status = u32::from(status);
        let number = if (100..=599).contains(&status) { status } else { Self::HTTP_ODD };
        Self((Self::HTTP_BASE + number).cast_signed())
    }

    /// Reads the decimal text of an attribute: signed 32-bit, or the same bits as an unsigned number.
    pub fn parse(text: &str) -> Option<Self> {
        let number: i64 = text.parse().ok()?;
        i32::try_from(number).or_else(|_| u32::try_from(number).map(u32::cast_signed)).ok().map(Self)
    }

    /// The cause, without the flags.
    pub const fn action(self) -> ActionCode {
        ActionCode::from_number(self.bits() & !Flags::MASK)
    }

    /// The HTTP status, if the cause is one.
    pub fn http_status(self) -> Option<u16> {
        let status = self.action().number().checked_sub(Self::HTTP_BASE)?;
        u16::try_from(status).ok().filter(|status| (100..=599).contains(status) || u32::from(*status) == Self::HTTP_ODD)
    }

    /// What was true of the host or the attempt besides.
    pub const fn flags(self) -> Flags {
        Flags(self.bits() & Flags::MASK)
    }

    /// The same cause with these flags as well.
    pub const fn with(self, flags: Flags) -> Self {
        Self((self.bits() | flags.0).cast_signed())
    }

    /// The cause's name: one of update_engine's, `Http 404`, or `unknown code` and its number.
    pub fn name(self) -> String {
        match (self.action().name(), self.http_status()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(status)) => format!("Http {status}"),
            (None, None) => format!("unknown code {}", self.0),
        }
    }

    /// Name, number and flags for people, as in `DownloadTransferError (9; TestOmahaUrl, Resumed)`.
    pub fn describe(self) -> String {
        let number = self.action().number();
        let flags = self.flags().names().collect::<Vec<_>>().join(", ");
        match (self.action().name(), flags.as_str()) {
            (None, _) if self.http_status().is_none() => self.name(),
            (_, "") => format!("{} ({number})", self.name()),
            (_, flags) => format!("{} ({number}; {flags})", self.name()),
        }
    }

    const fn bits(self) -> u32 {
        self.0.cast_unsigned()
    }
}

impl From<ActionCode> for ErrorCode {
    fn from(action: ActionCode) -> Self {
        Self(action.number().cast_signed())
    }
}

impl fmt::Display for ErrorCode {
    /// The number on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The top four bits of an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    /// The server is not the public one: set by every host of a self-hosted server.
    pub const TEST_OMAHA_URL: Self = Self(1 << 28);
    /// The image is a test image.
    pub const TEST_IMAGE: Self = Self(1 << 29);
    /// The download was a resumed one.
    pub const RESUMED: Self = Self(1 << 30);
    /// The host is in developer mode.
    pub const DEV_MODE: Self = Self(1 << 31);
    const MASK: u32 = 0xF000_0000;

    /// Whether none is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of those set, update_engine's, lowest bit first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [
            (Self::TEST_OMAHA_URL, "TestOmahaUrl"),
            (Self::TEST_IMAGE, "TestImage"),
            (Self::RESUMED, "Resumed"),
            (Self::DEV_MODE, "DevMode"),
        ]
        .into_iter()
        .filter(move |(flag, _)| self.contains(*flag))
        .map(|(_, name)| name)
    }
}

/// Something that happened on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub kind: EventType,
    /// How it ended.
    pub result: EventResult,
    /// Why it failed.
    pub error_code: Option<ErrorCode>,
    /// The version that ran before; update_engine sends it empty with every check, so empty is not absent.
    pub previous_version: Option<String>,
    /// Ours (`ota_attempt`): the attempt it belongs to.
    pub attempt: Option<String>,
    /// Ours (`ota_reason`): the reason in words. Written with at most [`super::MAX_TEXT_CHARS`] characters.
    pub reason: Option<String>,
}

impl Event {
    /// An event without further detail.
    pub const fn new(kind: EventType, result: EventResult) -> Self {
        Self { kind, result, error_code: None, previous_version: None, attempt: None, reason: None }
    }

    /// update_engine's failure event (3/0) with its code.
    pub fn failure(code: ErrorCode) -> Self {
        Self { error_code: Some(code), ..Self::new(EventType::UpdateComplete, EventResult::Error) }
    }

    pub(super) fn read(node: Node<'_>) -> Result<Self, Error> {
        Ok(Self {
            kind: EventType::from_number(read_number(node, "eventtype")?),
            result: EventResult::from_number(read_number(node, "eventresult")?),
            error_code: read_code(node)?,
            previous_version: node.attribute("previousversion").map(str::to_owned),
            attempt: node.non_empty("ota_attempt").map(str::to_owned),
            reason: node.non_empty("ota_reason").map(displayable),
        })
    }

    pub(super) fn write(&self, out: &mut String) {
        out.push_str("<event");
        write_attribute(out, "eventtype", &self.kind.number().to_string());
        write_attribute(out, "eventresult", &self.result.number().to_string());
        if let Some(code) = self.error_code {
            write_attribute(out, "errorcode", &code.to_string());
        }
        if let Some(version) = &self.previous_version {
            write_attribute(out, "previousversion", version);
        }
        if let Some(attempt) = &self.attempt {
            write_attribute(out, "ota_attempt", attempt);
        }
        if let Some(reason) = &self.reason {
            write_attribute(out, "ota_reason", &displayable(reason));
        }
        out.push_str("></event>");
    }
}

/// A number that the protocol document lets be absent (then 0).
fn read_number(node: Node<'_>, name: &'static str) -> Result<u32, Error> {
    match node.non_empty(name) {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| node.bad_value(name, "a decimal number")),
    }
}

fn read_code(node: Node<'_>) -> Result<Option<ErrorCode>, Error> {
    match node.non_empty("errorcode") {
        None => Ok(None),
        Some(text) => ErrorCode::parse(text).map(Some).ok_or_else(|| node.bad_value("errorcode", "a signed 32-bit number")),
    }
}
