//! Folders of executions, and the names of files in them and in requests.

use super::*;

/// A folder for inputs with the folders of an execution in use, of a job that is known, of another worker's, of a job long
/// ago, and of a user's.
struct Left {
    data: tempfile::TempDir,
    known: JobId,
    names: [String; 5],
    _in_use: Option<File>,
}

impl Left {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (known, others) = (JobId::new(), [(); 3].map(|()| JobId::new()));
        let folder = |id: &JobId| format!("{id}-{}", uuid::Uuid::new_v4().simple());
        let names = [
            folder(&others[0]),
            folder(&known),
            folder(&others[1]),
            folder(&others[2]),
            "my-pictures".to_owned(),
        ];
        for name in &names {
            let path = data.path().join("input").join(FOLDER).join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("a.png"), "x").unwrap();
        }
        let path = |name: &str| data.path().join("input").join(FOLDER).join(name);
        let old = std::time::SystemTime::now() - ABANDONED_AFTER * 2;
        for name in &names[3..] {
            File::open(path(name)).unwrap().set_modified(old).unwrap();
        }
        Self {
            _in_use: claim(&path(&names[0])),
            data,
            known,
            names,
        }
    }

    /// Which of them are there after a sweep.
    fn swept(self, are_ours: bool) -> [bool; 5] {
        let folders = Folders {
            output: self.data.path().join("output"),
            input: self.data.path().join("input"),
            temp: self.data.path().join("temp"),
            are_ours,
            ..Folders::default()
        };
        sweep(&folders, std::slice::from_ref(&self.known));
        let input = folders.input.join(FOLDER);
        self.names.map(|name| input.join(name).exists())
    }
}

#[test]
fn what_a_killed_worker_left_is_swept_and_what_is_in_use_stays() {
    assert_eq!(Left::new().swept(true), [true, false, false, false, true]);
}

#[test]
fn in_a_folder_that_others_use_too_only_known_and_old_ones_go() {
    assert_eq!(Left::new().swept(false), [true, false, true, false, true]);
}

#[test]
fn the_graph_that_is_returned_tells_no_folder_of_ours() {
    let graph = Graph::parse(&serde_json::json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "qwen-image-worker/job-1/a/b.png"}, "_meta": {"title": "x"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a/b.png"}},
    }));
    let uploaded = [("a/b.png".to_owned(), "qwen-image-worker/job-1/a/b.png".to_owned())];
    let returned = with_names_of_request(&graph.unwrap(), &uploaded);
    assert_eq!(returned["1"]["inputs"]["image"], "a/b.png");
    assert_eq!(returned["1"]["_meta"]["title"], "x");
    assert_eq!(returned["2"]["inputs"]["images"], serde_json::json!(["1", 0]));
    assert!(!returned.to_string().contains("job-1"));
}

#[test]
fn what_is_no_picture_has_an_ending() {
    let glb = Medium::of(b"glTF\x02\0\0\0\x0c\0\0\0");
    for (name, medium, stored) in [
        ("graph_1", glb, "graph_1.glb"),
        ("models/chair", glb, "chair.glb"),
        ("chair.bin", glb, "chair.bin"),
        ("photo", Medium::of(b"\x89PNG\r\n\x1a\n"), "photo"),
    ] {
        assert_eq!(stored_as(&ImageName::parse(name).unwrap(), medium), stored);
    }
}

#[test]
fn the_name_in_the_request_is_found_again() {
    let name = ImageName::parse("people/anna.png").unwrap();
    assert_eq!(name_in_request(&name_in_comfy("job-1", &name)), Some("people/anna.png"));
    for other in [
        "example.png",
        "qwen-image-worker/a.png",
        "qwen-image-worker-2/job-1/a.png",
    ] {
        assert_eq!(name_in_request(other), None, "{other}");
    }
}
