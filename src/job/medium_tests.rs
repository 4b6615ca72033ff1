//! Files that are no pictures.

use std::io::Write as _;

use super::*;

/// A latent of so many bytes, with the tensors that ComfyUI's `SaveLatent` writes.
fn latent_file(data: usize) -> Vec<u8> {
    safetensors(
        &format!(
            r#"{{"__metadata__":{{"prompt":"{{\"latent_tensor\": 1}}"}},"latent_tensor":{{"dtype":"F32","shape":[1,1,1,{}],"data_offsets":[0,{data}]}},"latent_format_version_0":{{"dtype":"F32","shape":[0],"data_offsets":[{data},{data}]}}}}"#,
            data / 4
        ),
        data,
    )
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut content = (header.len() as u64).to_le_bytes().to_vec();
    content.extend(header.as_bytes());
    content.resize(content.len() + data, 0);
    content
}

fn stl(triangles: u32) -> Vec<u8> {
    let mut content = vec![b' '; 80];
    content.extend(triangles.to_le_bytes());
    content.resize(84 + 50 * usize::try_from(triangles).unwrap(), 0);
    content
}

fn splat(turn: [u8; 4]) -> Vec<u8> {
    let mut content: Vec<u8> = [0.5_f32, -2.0, 3.0, 0.01, 0.02, 0.01]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    content.extend([200, 10, 10, 255]);
    content.extend(turn);
    content.repeat(3)
}

fn spz(mark: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(mark).unwrap();
    packer.finish().unwrap()
}

#[test]
fn what_graphs_load_is_known_by_what_is_in_it() {
    for (content, ending) in [
        (b"glTF\x02\0\0\0\x0c\0\0\0".to_vec(), "glb"),
        (
            b" {\"scene\": 0, \"asset\" : {\"generator\": \"x\", \"version\": \"2.0\"}}".to_vec(),
            "gltf",
        ),
        (b"\xef\xbb\xbf{\"asset\":{\"version\":\"2.0\"}}".to_vec(), "gltf"),
        (
            b"# Blender\nmtllib a.mtl\no Cube\nv 1.0 -1.0 1\nf 1 2 3\n".to_vec(),
            "obj",
        ),
        (b"Kaydara FBX Binary  \0\x1a\0".to_vec(), "fbx"),
        (b"; FBX 7.4.0 project file\n".to_vec(), "fbx"),
        (b"solid cube\n facet normal 0 0 1\n".to_vec(), "stl"),
        (stl(2), "stl"),
        (b"ply\nformat ascii 1.0\nend_header\n".to_vec(), "ply"),
        (b"ply\r\nformat binary_little_endian 1.0\r\n".to_vec(), "ply"),
        (splat([255, 128, 128, 128]), "splat"),
        (spz(b"NGSP\x02\0\0\0"), "spz"),
        (latent_file(16), "latent"),
        (b"RIFF\x24\0\0\0WAVEfmt ".to_vec(), "wav"),
        (b"ID3\x03\0\0\0\0\0\0".to_vec(), "mp3"),
        (b"fLaC\0\0\0\x22".to_vec(), "flac"),
        (b"OggS\0\x02\0\0".to_vec(), "ogg"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0".to_vec(), "m4a"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0".to_vec(), "mp4"),
        (b"\0\0\0\x14ftypqt  \0\0\x02\0".to_vec(), "mov"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm".to_vec(), "webm"),
    ] {
        let found = Medium::of(&content).map(|medium| medium.ending);
        assert_eq!(found, Some(ending), "{:?}", String::from_utf8_lossy(&content));
    }
}

#[test]
fn everything_else_is_none_of_them() {
    let mut odd = stl(2);
    odd.push(0);
    for content in [
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec(),
        b"GIF89a\x01\0\x01\0".to_vec(),
        b"".to_vec(),
        b"v".to_vec(),
        b"hello world, this is no model at all, of no kind whatsoever here".to_vec(),
        b"v1.2.3 of the program\n".to_vec(),
        b"# only a comment\n".to_vec(),
        b"{\"asset\": 1}".to_vec(),
        b"{\"1\": {\"class_type\": \"A\", \"inputs\": {}}}".to_vec(),
        b"solid advice is hard to come by".to_vec(),
        b"polygons\n".to_vec(),
        stl(0),
        odd,
        vec![0; 320],
        b"0123456789012345678901234567890123456789012345678901234567890123".to_vec(),
        splat([128, 128, 128, 128]),
        spz(b"tar something"),
        safetensors(r#"{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4),
        safetensors(
            r#"{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"latent_tensor":1}}"#,
            4,
        ),
        b"PK\x03\x04\x14\0\0\0\x08\0".to_vec(),
        b"%PDF-1.7".to_vec(),
    ] {
        let shown = String::from_utf8_lossy(&content[..content.len().min(80)]).into_owned();
        assert_eq!(Medium::of(&content), None, "{shown:?}");
    }
}

#[test]
fn a_file_that_says_it_is_longer_is_cut_off() {
    let whole = latent_file(16);
    let cut = &whole[..whole.len() - 1];
    let is_cut_off = |content: &[u8]| Medium::of(content).unwrap().is_cut_off(content);
    assert!(is_cut_off(cut) && !is_cut_off(&whole));
    assert!(is_cut_off(b"glTF\x02\0\0\0\x0d\0\0\0") && !is_cut_off(b"glTF\x02\0\0\0\x0c\0\0\0"));
    assert!(is_cut_off(b"glTF\x02\0\0\0\x0c"));
    // The formats of audio have no length that could be trusted: streams are written without one.
    assert!(!is_cut_off(b"RIFF\xff\xff\xff\xffWAVEfmt "));
}
