//! Images as tools write them, in every place they may be, and images that lie.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::progress::BuildEvent;
use crate::state_dir::StateDir;
use crate::tarball::testing::Tar;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image in memory: blobs by digest.
#[derive(Clone, Default)]
struct Sample {
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    plain: Vec<Vec<u8>>,
    config: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        Self::with(json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/app"]}}), |_| {})
    }

    /// An image of two layers; `change` may falsify its manifest.
    fn with(mut config: Value, change: impl FnOnce(&mut Value)) -> Self {
        let plain = vec![Tar::new().file("a", b"1").finish(), Tar::new().program("bin/app", b"2").finish()];
        let mut sample = Self { plain: plain.clone(), ..Self::default() };
        let packed = [zstd::encode_all(&plain[0][..], 3).unwrap(), plain[1].clone()];
        config["rootfs"] =
            json!({"type": "layers", "diff_ids": plain.iter().map(|layer| sha256(layer)).collect::<Vec<_>>()});
        sample.config = config.to_string().into_bytes();
        let kinds = ["application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.oci.image.layer.v1.tar"];
        let layers: Vec<Value> = packed.iter().zip(kinds).map(|(layer, kind)| sample.add(layer, kind)).collect();
        let config = sample.config.clone();
        let config = sample.add(&config, "application/vnd.oci.image.config.v1+json");
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        change(&mut manifest);
        sample.manifest = manifest.to_string().into_bytes();
        let manifest = sample.manifest.clone();
        sample.add(&manifest, MANIFEST);
        sample
    }

    fn add(&mut self, bytes: &[u8], media_type: &str) -> Value {
        self.blobs.insert(digest::of_bytes(bytes), bytes.to_vec());
        json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
    }

    fn index(&self) -> Value {
        let size = self.manifest.len();
        json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "digest": sha256(&self.manifest), "size": size}]})
    }

    fn layout(&self, index: &Value) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.blobs {
            fs::write(blobs.join(digest), bytes).unwrap();
        }
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
        dir
    }

    fn archive(&self) -> Vec<u8> {
        let index = self.index().to_string();
        let tar = Tar::new().file("index.json", index.as_bytes()).file("oci-layout", b"{}");
        let add = |tar: Tar, (digest, bytes): (&String, &Vec<u8>)| tar.file(&format!("blobs/sha256/{digest}"), bytes);
        self.blobs.iter().fold(tar, add).finish()
    }

    /// As `docker save` wrote it before it knew layouts: the second layer is a link to where it was before.
    fn saved(&self) -> Vec<u8> {
        let config = format!("{}.json", digest::of_bytes(&self.config));
        let manifest = json!([{"Config": config, "RepoTags": ["app:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}]);
        Tar::new()
            .file(&config, &self.config)
            .file("one/layer.tar", &self.plain[0])
            .file("real/layer.tar", &self.plain[1])
            .symlink("two/layer.tar", "../real/layer.tar")
            .file("manifest.json", manifest.to_string().as_bytes())
            .finish()
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", digest::of_bytes(bytes))
}

/// Opens an image and unpacks its layers; both may refuse.
fn unpacked(reference: &str) -> Result<(OciImage, Vec<Layer>, Vec<String>), ImageError> {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("state")).unwrap();
    let image = OciImage::open(reference, dir.path())?;
    let cache = LayerCache::of(&state);
    let mut lines = Vec::new();
    let mut observe = |event| {
        if let BuildEvent::Log { line, .. } = event {
            lines.push(line);
        }
    };
    let layers = image.layers(&cache, &mut Reporter::new(&mut observe, Cancel::new()))?;
    let again = image.layers(&cache, &mut Reporter::new(&mut observe, Cancel::new()))?;
    assert_eq!(layers, again);
    // The scratch directory goes, and the plain tars with it: they are compared here.
    let plain = layers.iter().map(|layer| digest::of_file(&layer.plain).unwrap().0);
    assert!(plain.eq(layers.iter().map(|layer| layer.plain_sha256.clone())));
    Ok((image, layers, lines))
}

fn refused_code(reference: &str) -> String {
    match unpacked(reference) {
        Ok(_) => panic!("{reference} was not refused"),
        Err(err) => {
            assert!(err.remedy().len() > 10);
            err.code().to_owned()
        }
    }
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn one_image_is_the_same_from_every_place() {
    let sample = Sample::new();
    let layout = sample.layout(&sample.index());
    let archive = file(&sample.archive());
    let packed = file(&zstd::encode_all(&sample.archive()[..], 3).unwrap());
    let saved = file(&sample.saved());
    let transported = format!("oci-archive:{}", archive.path().display());
    for path in [layout.path(), archive.path(), packed.path(), saved.path(), Path::new(&transported)] {
        let (image, layers, lines) = unpacked(path.to_str().unwrap()).unwrap();
        assert_eq!(image.id(), digest::of_bytes(&sample.config));
        assert_eq!(image.run_config().cmd.as_deref(), Some(&["/bin/app".to_owned()][..]));
        let wanted: Vec<String> = sample.plain.iter().map(|layer| digest::of_bytes(layer)).collect();
        assert!(layers.iter().map(|layer| &layer.plain_sha256).eq(&wanted));
        // The second time nothing was unpacked.
        assert!(lines[0].ends_with("unpacked") && lines[2].ends_with("from the cache"), "{lines:?}");
    }
}

#[test]
fn a_list_gives_the_image_for_this_machine() {
    let mut sample = Sample::new();
    let entry = |architecture: &str, manifest: &[u8]| {
        json!({"mediaType": MANIFEST, "digest": sha256(manifest), "size": manifest.len(),
               "platform": {"os": "linux", "architecture": architecture}})
    };
    let manifest = sample.manifest.clone();
    let list = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry("arm64", b"not here"), entry("amd64", &manifest), entry("unknown", b"attestation")]});
    let list = sample.add(list.to_string().as_bytes(), INDEX);
    let layout = sample.layout(&json!({"schemaVersion": 2, "manifests": [list]}));
    unpacked(layout.path().to_str().unwrap()).unwrap();

    let foreign = json!({"schemaVersion": 2, "manifests": [entry("arm64", b"x"), entry("s390x", b"y")]});
    let layout = sample.layout(&foreign);
    let err = unpacked(layout.path().to_str().unwrap()).unwrap_err();
    let text = std::error::Error::source(&err).unwrap().to_string();
    assert!(
        err.code() == "oci_platform_missing" && text.contains("linux/s390x") && text.contains("linux/amd64"),
        "{text}"
    );
    // A manifest may keep silent; the configuration says it.
    let arm = Sample::with(json!({"architecture": "arm64", "os": "linux"}), |_| {});
    assert_eq!(refused_code(arm.layout(&arm.index()).path().to_str().unwrap()), "oci_platform_missing");
}

#[test]
fn a_tag_chooses_among_several_images() {
    let (mut one, other) = (Sample::new(), Sample::with(json!({"architecture": "amd64", "os": "linux"}), |_| {}));
    one.blobs.extend(other.blobs.clone());
    let entry = |manifest: &[u8], tag: &str| {
        json!({"mediaType": MANIFEST, "digest": sha256(manifest), "size": manifest.len(),
               "annotations": {"org.opencontainers.image.ref.name": tag}})
    };
    let layout = one.layout(&json!({"schemaVersion": 2,
        "manifests": [entry(&one.manifest, "v1"), entry(&other.manifest, "v2")]}));
    let path = layout.path().to_str().unwrap();
    assert_eq!(unpacked(&format!("{path}:v1")).unwrap().0.id(), digest::of_bytes(&one.config));
    assert_eq!(unpacked(&format!("oci:{path}:v2")).unwrap().0.id(), digest::of_bytes(&other.config));
    assert_eq!(refused_code(path), "oci_tag_unknown");
    assert_eq!(refused_code(&format!("{path}:v3")), "oci_tag_unknown");
    let saved = file(&one.saved());
    assert_eq!(refused_code(&format!("{}:2", saved.path().display())), "oci_tag_unknown");
    unpacked(&format!("{}:1", saved.path().display())).unwrap();
}

#[test]
fn an_image_that_lies_is_refused() {
    let refused = |change: &dyn Fn(&mut Sample)| {
        let mut sample = Sample::new();
        change(&mut sample);
        let index = sample.index();
        refused_code(sample.layout(&index).path().to_str().unwrap())
    };
    let layer = |sample: &Sample| digest::of_bytes(&sample.plain[1]);
    let config = |sample: &Sample| digest::of_bytes(&sample.config);
    let manifest = |sample: &Sample| digest::of_bytes(&sample.manifest);
    let flip = |sample: &mut Sample, digest: String| sample.blobs.get_mut(&digest).unwrap()[20] ^= 1;
    assert_eq!(refused(&|sample| flip(sample, layer(sample))), "oci_digest_mismatch");
    assert_eq!(refused(&|sample| flip(sample, config(sample))), "oci_digest_mismatch");
    assert_eq!(refused(&|sample| flip(sample, manifest(sample))), "oci_digest_mismatch");
    assert_eq!(refused(&|sample| sample.blobs.get_mut(&layer(sample)).unwrap().push(0)), "oci_digest_mismatch");
    assert_eq!(refused(&|sample| drop(sample.blobs.remove(&layer(sample)))), "oci_blob_missing");
    assert_eq!(refused(&|sample| drop(sample.blobs.remove(&config(sample)))), "oci_blob_missing");

    let falsified = |change: fn(&mut Value)| {
        let sample = Sample::with(json!({"architecture": "amd64", "os": "linux"}), change);
        refused_code(sample.layout(&sample.index()).path().to_str().unwrap())
    };
    assert_eq!(falsified(|manifest| manifest["layers"][1]["size"] = json!(7)), "oci_digest_mismatch");
    assert_eq!(falsified(|manifest| manifest["layers"] = json!([])), "oci_document_malformed");
    assert_eq!(falsified(|manifest| manifest["layers"] = json!({})), "oci_document_malformed");
    // In the other order each layer is what its digest says, and not what the configuration says.
    assert_eq!(falsified(|manifest| manifest["layers"].as_array_mut().unwrap().reverse()), "oci_diff_id_mismatch");
    assert_eq!(
        falsified(|manifest| manifest["layers"][0]["digest"] = json!("sha256:../../etc/shadow")),
        "oci_digest_malformed"
    );
    assert_eq!(
        falsified(|manifest| manifest["layers"][0]["mediaType"] = json!("text/plain")),
        "oci_media_type_unsupported"
    );
    assert_eq!(falsified(|manifest| manifest["schemaVersion"] = json!(1)), "oci_media_type_unsupported");

    let mut sample = Sample::new();
    sample.config.extend_from_slice(b"\n");
    let named = Sample::new();
    let lying = Tar::new().file(&format!("{}.json", digest::of_bytes(&named.config)), &sample.config).file(
        "manifest.json",
        json!([{"Config": format!("{}.json", digest::of_bytes(&named.config)), "Layers": []}]).to_string().as_bytes(),
    );
    assert_eq!(refused_code(file(&lying.finish()).path().to_str().unwrap()), "oci_digest_mismatch");
}

#[test]
fn what_is_no_image_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(refused_code(dir.path().to_str().unwrap()), "oci_reference_unknown");
    assert_eq!(refused_code("/nowhere/image.tar"), "oci_reference_unknown");
    assert_eq!(refused_code("debian"), "oci_reference_unknown");
    let root = file(&Tar::new().file("etc/passwd", b"").finish());
    assert_eq!(refused_code(root.path().to_str().unwrap()), "oci_reference_unknown");
    assert_eq!(refused_code(file(b"no tar at all").path().to_str().unwrap()), "archive_damaged");
    let sample = Sample::new();
    let layout = sample.layout(&json!({"schemaVersion": 2, "manifests": "x"}));
    assert_eq!(refused_code(layout.path().to_str().unwrap()), "oci_document_malformed");
    // A device in the place of a blob is not opened.
    let layout = sample.layout(&sample.index());
    let blob = layout.path().join("blobs/sha256").join(digest::of_bytes(&sample.plain[1]));
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &blob).unwrap();
    assert_eq!(refused_code(layout.path().to_str().unwrap()), "oci_blob_missing");
    let huge = file(&Tar::new().file("index.json", &vec![b' '; (4 << 20) + 1]).finish());
    assert_eq!(refused_code(huge.path().to_str().unwrap()), "oci_document_malformed");
    let escaping = file(&Tar::new().file("../index.json", b"{}").finish());
    assert_eq!(refused_code(escaping.path().to_str().unwrap()), "archive_path_escapes");
    let linked = file(&Tar::new().symlink("index.json", "../../etc/passwd").finish());
    assert_eq!(refused_code(linked.path().to_str().unwrap()), "archive_link_escapes");
}

/// A registry on loopback that wants a token, as the public ones do even for anonymous pulls.
struct TestRegistry {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TestRegistry {
    fn serve(sample: Sample, wants_token: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (sample, log) = (sample.clone(), log.clone());
                std::thread::spawn(move || answer(stream, port, &sample, wants_token, &log));
            }
        });
        Self { port, asked }
    }
}

fn answer(mut stream: TcpStream, port: u16, sample: &Sample, wants_token: bool, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|count| count > 2) {}
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    log.lock().unwrap().push(path.clone());
    let allowed = !wants_token || head.to_lowercase().contains("authorization: bearer secret");
    let version = path.rsplit('/').next().unwrap_or_default();
    let (status, extra, body) = if path.starts_with("/token?") {
        let good = path.contains("service=test") && path.contains("pull");
        (if good { 200 } else { 400 }, String::new(), br#"{"token":"secret"}"#.to_vec())
    } else if !allowed {
        let scope = "repository:team/app:pull";
        let challenge = format!("Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"test\",scope=\"{scope}\"");
        (401, format!("WWW-Authenticate: {challenge}\r\n"), Vec::new())
    } else if path == "/v2/team/app/manifests/1" {
        (200, format!("Content-Type: {MANIFEST}; charset=utf-8\r\n"), sample.manifest.clone())
    } else if let Some(bytes) = version.strip_prefix("sha256:").and_then(|digest| sample.blobs.get(digest)) {
        (200, String::new(), bytes.clone())
    } else {
        (404, String::new(), Vec::new())
    };
    let len = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{extra}Content-Length: {len}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
}

#[test]
fn a_registry_is_asked_once_for_each_blob_and_never_for_those_in_the_cache() {
    let sample = Sample::new();
    let registry = TestRegistry::serve(sample.clone(), true);
    let (image, _, lines) = unpacked(&format!("docker://127.0.0.1:{}/team/app:1", registry.port)).unwrap();
    assert_eq!(image.id(), digest::of_bytes(&sample.config));
    assert!(lines[3].ends_with("from the cache"), "{lines:?}");
    let asked = registry.asked.lock().unwrap().clone();
    let blobs = asked.iter().filter(|path| path.contains("/blobs/")).count();
    assert_eq!((blobs, asked.iter().filter(|path| path.starts_with("/token")).count()), (3, 1), "{asked:?}");
    let by_digest = format!("127.0.0.1:{}/team/app@{}", registry.port, sha256(&sample.manifest));
    assert_eq!(unpacked(&by_digest).unwrap().0.id(), image.id());
}

#[test]
fn a_registry_that_lies_or_refuses_is_named() {
    let sample = Sample::new();
    let of = |sample: Sample| {
        let registry = TestRegistry::serve(sample, false);
        refused_code(&format!("127.0.0.1:{}/team/app:1", registry.port))
    };
    let mut flipped = sample.clone();
    flipped.blobs.get_mut(&digest::of_bytes(&sample.plain[1])).unwrap()[9] ^= 1;
    assert_eq!(of(flipped), "oci_digest_mismatch");
    let mut endless = sample.clone();
    endless.blobs.get_mut(&digest::of_bytes(&sample.plain[1])).unwrap().extend([0; 100_000]);
    assert_eq!(of(endless), "oci_digest_mismatch");
    let mut gone = sample.clone();
    gone.blobs.remove(&digest::of_bytes(&sample.plain[1]));
    assert_eq!(of(gone), "oci_blob_missing");

    let registry = TestRegistry::serve(sample.clone(), false);
    let at = |rest: &str| refused_code(&format!("127.0.0.1:{}/{rest}", registry.port));
    assert_eq!(at("team/app:2"), "oci_registry_failed");
    let other = format!("team/app@{}", sha256(&sample.config));
    assert_eq!(at(&other), "oci_media_type_unsupported");
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(refused_code(&format!("127.0.0.1:{port}/a:1")), "oci_registry_failed");
}
