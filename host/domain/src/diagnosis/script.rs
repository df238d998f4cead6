//! The way of the field: a shell script that reads `ip=` and says each of its steps. Its words, in order, as the catalogue has them.
//!
//! A marker that is there proves every step before it. The first one that is missing names the step where the script stopped, and
//! only that: why it stopped, its `ERROR` says, or the kernel's refusal before it.

use airlock_protocol::Stage;

use super::Evidence;

/// Words of the script, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Marker {
    Started,
    Command,
    Cmdline,
    Parameter,
    Waiting,
    Found,
    Up,
    Assigned,
    Route,
    /// Not a step of its own: what stands in the place of `Route`.
    RouteRefused,
    Complete,
}

impl Marker {
    const STEPS: [Self; 10] = [
        Self::Started,
        Self::Command,
        Self::Cmdline,
        Self::Parameter,
        Self::Waiting,
        Self::Found,
        Self::Up,
        Self::Assigned,
        Self::Route,
        Self::Complete,
    ];

    /// What the script says.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Started => "=== Network Setup Script Started at",
            Self::Command => "Using ip command:",
            Self::Cmdline => "Kernel cmdline:",
            Self::Parameter => "Found kernel IP parameter:",
            Self::Waiting => "Waiting for device ... to appear",
            Self::Found => "Device ... found after N attempts",
            Self::Up => "Device ... is UP",
            Self::Assigned => "IP address assigned",
            Self::Route => "Default route added",
            Self::RouteRefused => "WARNING: Failed to add default route",
            Self::Complete => "=== Network setup complete at",
        }
    }

    /// The stage that is not reached when this is missing.
    pub const fn stage(self) -> Stage {
        match self {
            Self::Started | Self::Command | Self::Cmdline | Self::Parameter | Self::Waiting => Stage::ConfigRead,
            Self::Found => Stage::LinkFound,
            Self::Up => Stage::LinkUp,
            Self::Assigned => Stage::AddressSet,
            Self::Route | Self::RouteRefused => Stage::RouteSet,
            Self::Complete => Stage::GatewayReachable,
        }
    }

    /// Whether a record with this text is the marker.
    fn is(self, text: &str) -> bool {
        match self {
            Self::Found => text.starts_with("Device ") && text.contains(" found after "),
            Self::Up => text.starts_with("Device ") && text.trim_end().ends_with(" is UP"),
            Self::Waiting => text.starts_with("Waiting for device ") && text.contains(" to appear"),
            other => text.starts_with(other.words()),
        }
    }
}

/// What the kernel refused the script, or anybody else who uses iproute2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Exists,
    NotPermitted,
    Unreachable,
    Other,
}

/// What is known of the script's last run.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    seen: Vec<(Marker, Evidence)>,
    refusals: Vec<(Refusal, Evidence)>,
    /// The value behind `ip=`, as the script found it.
    pub parameter: Option<(String, Evidence)>,
}

/// Refusals that are kept.
const MAX_REFUSALS: usize = 16;

impl Script {
    pub fn take(&mut self, marker: Marker, text: &str, said: impl Fn() -> Evidence) -> bool {
        if !marker.is(text) {
            return false;
        }
        if marker == Marker::Started && self.last().is_some_and(|last| last > Marker::Started) {
            *self = Self::default();
        }
        if marker == Marker::Parameter && self.parameter.is_none() {
            let value = text.strip_prefix(marker.words()).unwrap_or_default().trim();
            self.parameter = Some((value.strip_prefix("ip=").unwrap_or(value).to_owned(), said()));
        }
        if self.line(marker).is_none() {
            self.seen.push((marker, said()));
        }
        true
    }

    pub fn take_refusal(&mut self, text: &str, said: impl Fn() -> Evidence) {
        let Some((_, why)) = text.split_once("RTNETLINK answers: ") else { return };
        let refusal = match why.trim() {
            "File exists" => Refusal::Exists,
            "Operation not permitted" => Refusal::NotPermitted,
            "Network is unreachable" => Refusal::Unreachable,
            why if why.starts_with("Operation not possible") => Refusal::NotPermitted,
            _ => Refusal::Other,
        };
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push((refusal, said()));
        }
    }

    /// Whether it said anything.
    pub fn spoke(&self) -> bool {
        !self.seen.is_empty()
    }

    pub fn line(&self, marker: Marker) -> Option<&Evidence> {
        self.seen.iter().find(|(seen, _)| *seen == marker).map(|(_, said)| said)
    }

    /// The furthest marker that is there.
    pub fn last(&self) -> Option<Marker> {
        self.seen.iter().map(|(marker, _)| *marker).max()
    }

    /// The first step that is not proved, by its own marker or by a later one.
    pub fn missing(&self) -> Option<Marker> {
        let last = self.last()?;
        let furthest = if last == Marker::RouteRefused { Marker::Assigned } else { last };
        Marker::STEPS.into_iter().find(|step| *step > furthest)
    }

    /// The first refusal of this kind between two lines.
    pub fn refused(&self, wanted: Refusal, between: std::ops::Range<u64>) -> Option<&Evidence> {
        let fits = |said: &Evidence| said.line.is_some_and(|line| between.contains(&line));
        self.refusals.iter().find(|(refusal, said)| *refusal == wanted && fits(said)).map(|(_, said)| said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &[(Marker, &str)]) -> Script {
        let mut script = Script::default();
        for (number, (marker, text)) in (1u64..).zip(lines) {
            script.take(*marker, text, || Evidence::of_line(number, text.as_bytes()));
        }
        script
    }

    #[test]
    fn the_first_missing_marker_names_the_step() {
        let all = [
            (Marker::Started, "=== Network Setup Script Started at Mon ==="),
            (Marker::Parameter, "Found kernel IP parameter: ip=10.0.0.2::10.0.0.1:255.0.0.0::eth0:off"),
            (Marker::Waiting, "Waiting for device eth0 to appear..."),
            (Marker::Found, "Device eth0 found after 3 attempts"),
            (Marker::Up, "Device eth0 is UP"),
            (Marker::Assigned, "IP address assigned"),
            (Marker::Route, "Default route added"),
            (Marker::Complete, "=== Network setup complete at Mon ==="),
        ];
        let stages = [
            Stage::ConfigRead,
            Stage::ConfigRead,
            Stage::LinkFound,
            Stage::LinkUp,
            Stage::AddressSet,
            Stage::RouteSet,
            Stage::GatewayReachable,
        ];
        for (count, stage) in (1..).zip(stages) {
            assert_eq!(run(&all[..count]).missing().map(Marker::stage), Some(stage), "{count}");
        }
        assert_eq!(run(&all).missing(), None);
        assert_eq!(run(&all).parameter.unwrap().0, "10.0.0.2::10.0.0.1:255.0.0.0::eth0:off");
        // What stands later proves what stands before it.
        assert_eq!(run(&[all[0], all[5]]).missing(), Some(Marker::Route));
        // A second run is another run.
        assert_eq!(run(&[all[0], all[5], all[0]]).last(), Some(Marker::Started));
        assert!(!run(&[(Marker::Found, "nothing found after all")]).spoke());
    }
}
