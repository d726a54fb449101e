//! From an offer to a plan, or to the reason why not: one pure function, checks in a fixed order.

use manifests::release::Image;
use manifests::version::Sequence;

use crate::engine::cause::Cause;
use crate::engine::event::{Fault, Offer};
use crate::engine::facts::{Facts, Floor, FloorFacts};
use crate::engine::model::{Model, Refusal, names};
use crate::engine::state::{Kind, Origin, Plan, Request, Target, UNKNOWN_VERSION};
use crate::engine::time::Now;

/// What becomes of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Install it.
    Install(Box<Plan>),
    /// It runs already.
    UpToDate,
    /// It must not be installed; nothing changes on disk.
    Refuse(Fault),
}

/// Decides about an offer. The first check that fails gives the reason.
pub fn decide(offer: &Offer, request: &Request, facts: &Facts, model: &Model, now: &Now) -> Decision {
    if let Some(trouble) = facts.troubles.first() {
        return Decision::Refuse(Fault::new(trouble.code.clone(), trouble.message.clone()));
    }
    if facts.is_blind() {
        let message = "it is not known which slot runs, or the boot table cannot be read: nothing can be written";
        return Decision::Refuse(Fault::new(Cause::RunningSlotUnknown, message));
    }
    if runs_already(offer, facts) {
        return Decision::UpToDate;
    }
    if let Some(fault) = facts.started_by_hand() {
        return Decision::Refuse(fault);
    }
    let checks = [
        check_announcement(offer),
        check_target(offer, facts),
        check_order(offer, request, facts),
        check_images(offer, facts),
        check_refusals(offer, request, model),
        check_request(offer, request),
    ];
    match checks.into_iter().find_map(Result::err) {
        Some(fault) => Decision::Refuse(fault),
        None => make_plan(offer, request, facts, now),
    }
}

/// By identity when the running slot's record is known; by label when it is not (a factory slot), so that a host never
/// reinstalls for ever what it cannot know it has.
fn runs_already(offer: &Offer, facts: &Facts) -> bool {
    let running = facts.running_content();
    match running.digest {
        Some(digest) => digest == offer.digest,
        None => running.version.as_deref() == Some(offer.record.version.as_str()),
    }
}

fn check_announcement(offer: &Offer) -> Result<(), Fault> {
    match &offer.announced_version {
        Some(announced) if announced != offer.record.version.as_str() => Err(Fault::new(
            Cause::VersionMismatch,
            format!(
                "the server announced version {announced}, but the signed record it names is of version {}",
                offer.record.version
            ),
        )),
        _ => Ok(()),
    }
}

/// Is it a release for this product, architecture, board and channel?
pub(super) fn check_target(offer: &Offer, facts: &Facts) -> Result<(), Fault> {
    let record = &offer.record;
    let host = &facts.identity;
    let same_product = record.product.trim_matches(['{', '}']).eq_ignore_ascii_case(host.app_id.trim_matches(['{', '}']));
    let pairs = [
        (Cause::WrongProduct, "product", same_product, &record.product, &host.app_id),
        (Cause::WrongArch, "architecture", record.arch == host.arch, &record.arch, &host.arch),
        (Cause::WrongBoard, "board", record.board == host.board, &record.board, &host.board),
    ];
    for (code, what, fits, got, expected) in pairs {
        if !fits {
            return Err(Fault::new(code, format!("{} is made for {what} {got}, this host is {expected}", label(offer))));
        }
    }
    if !record.channels.is_empty() && !record.channels.contains(&host.channel) {
        let message = format!(
            "{} may be installed from channel {}, this host follows {}",
            label(offer),
            record.channels.join(", "),
            host.channel
        );
        return Err(Fault::new(Cause::WrongChannel, message));
    }
    Ok(())
}

fn check_order(offer: &Offer, request: &Request, facts: &Facts) -> Result<(), Fault> {
    let record = &offer.record;
    let floor = known_floor(facts)?;
    if record.sequence < floor.floor {
        let message =
            format!("{} is below the floor {} of this host: it may never be installed again", label(offer), floor.floor);
        return Err(Fault::new(Cause::BelowFloor, message));
    }
    let running = facts.running_content();
    if running.sequence == Some(record.sequence) {
        let message = format!(
            "{} has the sequence of the running release but is another one: a publisher must never use a sequence twice",
            label(offer)
        );
        return Err(Fault::new(Cause::SequenceReused, message));
    }
    let highest = floor.highest.max(running.sequence.unwrap_or(Sequence::ZERO));
    if record.sequence < highest && !request.allow_older {
        let message = format!(
            "{} is older than sequence {highest}, the highest this host has run: `updatectl update {} --allow-older` installs it all the same",
            label(offer),
            record.version
        );
        return Err(Fault::new(Cause::OlderRelease, message));
    }
    check_source(offer, running.sequence)
}

fn known_floor(facts: &Facts) -> Result<Floor, Fault> {
    match &facts.floor {
        FloorFacts::Known(floor) => Ok(floor.clone()),
        FloorFacts::Lost { .. } => Err(Fault::new(
            Cause::FloorLost,
            "the state folder of this host was lost, and with it the lowest release it may run: `updatectl adopt RELEASE` with the record of the running release restores it",
        )),
    }
}

fn check_source(offer: &Offer, running: Option<Sequence>) -> Result<(), Fault> {
    let Some(minimum) = offer.record.minimum_source else { return Ok(()) };
    match running {
        Some(sequence) if sequence >= minimum => Ok(()),
        Some(sequence) => Err(Fault::new(
            Cause::SourceTooOld,
            format!(
                "{} can only be installed from sequence {minimum} up, this host runs {sequence}: an intermediate release comes first",
                label(offer)
            ),
        )),
        None => Err(Fault::new(
            Cause::SourceUnknown,
            format!(
                "{} can only be installed from sequence {minimum} up, and the record of the running slot is not known: `updatectl adopt RELEASE` names it",
                label(offer)
            ),
        )),
    }
}

fn check_images(offer: &Offer, facts: &Facts) -> Result<(), Fault> {
    let Some(target) = facts.target() else { return Ok(()) };
    let images: Vec<&Image> = offer.record.images_for(target).map(|(_, image)| image).collect();
    let same = images.len() == facts.capacity.len() && images.iter().all(|image| facts.capacity.contains_key(&image.name));
    if !same {
        let got = images.iter().map(|image| (image.name.clone(), ())).collect();
        let message = format!(
            "{} has the images {} for slot {target}, its slots are configured for {}",
            label(offer),
            names(&got),
            names(&facts.capacity)
        );
        return Err(Fault::new(Cause::ImageSet, message));
    }
    for image in images {
        let capacity = facts.capacity.get(&image.name).copied().unwrap_or(0);
        if image.table.image_size() > capacity {
            let size = image.table.image_size();
            let message = format!("image {} of {} is {size} bytes, slot {target} takes {capacity}", image.name, label(offer));
            return Err(Fault::new(Cause::ImageTooLarge, message));
        }
    }
    Ok(())
}

/// A release that was given up here stays refused until a newer sequence, or until a person names it. Another record with its
/// sequence is no newer one.
fn check_refusals(offer: &Offer, request: &Request, model: &Model) -> Result<(), Fault> {
    let record = &offer.record;
    let named = request.version.as_deref() == Some(record.version.as_str()) || matches!(request.origin, Origin::Files { .. });
    if named {
        return Ok(());
    }
    let stands = |refusal: &&Refusal| refusal.digest == offer.digest || refusal.sequence == record.sequence;
    match model.refusals.iter().find(stands) {
        Some(refusal) => Err(Fault::new(
            Cause::RefusedRelease,
            format!(
                "{} was given up on this host ({}): a newer release, or `updatectl update {}`, is tried",
                label(offer),
                refusal.reason,
                record.version
            ),
        )),
        None => Ok(()),
    }
}

fn check_request(offer: &Offer, request: &Request) -> Result<(), Fault> {
    match &request.version {
        Some(wanted) if wanted != offer.record.version.as_str() => Err(Fault::new(
            Cause::OtherVersion,
            format!("version {wanted} was asked for, the server offers {}", offer.record.version),
        )),
        _ => Ok(()),
    }
}

fn make_plan(offer: &Offer, request: &Request, facts: &Facts, now: &Now) -> Decision {
    let Some(slot) = facts.target() else { return Decision::UpToDate };
    let record = &offer.record;
    let notes_url = match &record.notes {
        Some(manifests::release::Notes::Url { url, .. }) => Some(url.clone()),
        _ => None,
    };
    let target = Target { slot, version: record.version.clone(), sequence: record.sequence, digest: offer.digest };
    let running = facts.running_content();
    let highest = known_floor(facts).map_or(record.sequence, |floor| floor.highest).max(running.sequence.unwrap_or_default());
    let from_version = running.version.unwrap_or_else(|| UNKNOWN_VERSION.to_owned());
    Decision::Install(Box::new(Plan {
        source: offer.source.clone(),
        notes_url,
        image_bytes: record.images_for(slot).map(|(_, image)| image.table.image_size()).sum(),
        no_reboot: request.no_reboot,
        allow_older: record.sequence < highest,
        reported_installed: false,
        ..Plan::without_payload(now.attempt_id(), Kind::Update, target, from_version, now.wall)
    }))
}

fn label(offer: &Offer) -> String {
    format!("release {} (sequence {})", offer.record.version, offer.record.sequence)
}
