//! The bill of materials of an image: SPDX 2.3 as JSON, from the packages that the manifest lists. Pure.
//!
//! Source of the form: the SPDX specification 2.3 (chapters 6, 7 and 11) and its JSON schema; package URLs by purl-spec (`deb`).
//! The same manifest gives the same bytes: the time is the image's epoch.

use serde_json::{Value, json};

use crate::manifest::Manifest;
use crate::registry::GoldenImage;

/// File name in an image.
pub(crate) const SBOM_FILE: &str = "sbom.spdx.json";

/// The document of an image.
pub fn sbom(image: &GoldenImage) -> Value {
    of_manifest(&image.manifest, &image.digest)
}

/// The document's bytes, as they stand beside the manifest.
pub(crate) fn to_bytes(manifest: &Manifest, digest: &str) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(&of_manifest(manifest, digest)).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn of_manifest(manifest: &Manifest, digest: &str) -> Value {
    let image = json!({
        "SPDXID": "SPDXRef-Image",
        "name": manifest.name,
        "versionInfo": format!("sha256:{digest}"),
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "checksums": [{ "algorithm": "SHA256", "checksumValue": digest }],
    });
    let packages = manifest.packages.iter().map(|(name, version)| {
        let purl = format!("pkg:deb/debian/{}@{}?distro={}", quoted(name), quoted(version), quoted(&manifest.suite));
        package(&package_id(name), name, version, &purl)
    });
    let npm = manifest.npm.iter().map(|(name, version)| npm_package(name, version));
    let ids = manifest.packages.keys().map(|name| package_id(name)).chain(manifest.npm.keys().map(|name| npm_id(name)));
    let contained = ids.map(|id| relation("SPDXRef-Image", "CONTAINS", &id));
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{}@sha256:{digest}", manifest.name),
        "documentNamespace": format!("https://spdx.org/spdxdocs/airlock-{}-{digest}", manifest.name),
        "creationInfo": {
            "created": utc(manifest.epoch),
            "creators": [concat!("Tool: airlock-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": std::iter::once(image).chain(packages).chain(npm).collect::<Vec<_>>(),
        "relationships": std::iter::once(relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"))
            .chain(contained)
            .collect::<Vec<_>>(),
    })
}

fn npm_package(name: &str, version: &str) -> Value {
    // A scope is a namespace of the URL, its parts quoted one by one.
    let path = name.split('/').map(quoted).collect::<Vec<_>>().join("/");
    package(&npm_id(name), name, version, &format!("pkg:npm/{path}@{}", quoted(version)))
}

fn package(id: &str, name: &str, version: &str, purl: &str) -> Value {
    json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }],
    })
}

fn npm_id(name: &str) -> String {
    package_id(name).replacen("Package", "Npm", 1)
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// Letters, digits, `.` and `-` only (chapter 7.2); what is something else becomes its code, so that no two names meet.
fn package_id(name: &str) -> String {
    let plain = name.chars().map(|c| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => c.to_string(),
        other => format!("-u{:x}-", u32::from(other)),
    });
    format!("SPDXRef-Package-{}", plain.collect::<String>())
}

/// Percent-encoded (RFC 3986, unreserved characters stay).
fn quoted(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Seconds since the Unix epoch as `2026-01-01T00:00:00Z`. Days to date: Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_package_is_listed_named_and_contained() {
        let mut manifest = crate::manifest::sample();
        manifest.packages =
            BTreeMap::from([("libstdc++6".into(), "12.2.0-14".into()), ("tzdata".into(), "1:2026a-0+deb12u1".into())]);
        let document = of_manifest(&manifest, "ab");
        assert_eq!(document["spdxVersion"], "SPDX-2.3");
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), 4);
        assert_eq!(packages[1]["SPDXID"], "SPDXRef-Package-libstdc-u2b--u2b-6");
        let purl = |index: usize| &packages[index]["externalRefs"][0]["referenceLocator"];
        assert_eq!(purl(1), "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?distro=bookworm");
        assert_eq!(purl(2), "pkg:deb/debian/tzdata@1%3A2026a-0%2Bdeb12u1?distro=bookworm");
        assert_eq!(
            (packages[3]["SPDXID"].as_str(), purl(3).as_str()),
            (Some("SPDXRef-Npm--u40-openai-u2f-codex"), Some("pkg:npm/%40openai/codex@0.169.0"))
        );
        let relations = document["relationships"].as_array().unwrap();
        let ids: Vec<_> = packages.iter().map(|package| &package["SPDXID"]).collect();
        assert!(relations.iter().all(|relation| ids.contains(&&relation["relatedSpdxElement"])));
        assert_eq!(relations.len(), 4);
        assert_eq!(to_bytes(&manifest, "ab"), to_bytes(&manifest, "ab"));
    }

    #[test]
    fn times_are_the_calendars() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
