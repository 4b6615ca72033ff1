//! What a job made and what it only names, on real files.

use serde_json::json;

use super::*;
use crate::job::FileKind;

struct Bench {
    data: tempfile::TempDir,
    ledger: Ledger,
    heard: mpsc::UnboundedReceiver<Event>,
}

impl Bench {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders {
            output: data.path().join("output"),
            input: data.path().join("input"),
            temp: data.path().join("temp"),
            are_ours: true,
            ..Folders::default()
        };
        for folder in ["output/sub", "input", "temp"] {
            fs::create_dir_all(data.path().join(folder)).unwrap();
        }
        let (events, heard) = mpsc::unbounded_channel();
        Self {
            ledger: Ledger::new(events, Some(&folders), None),
            data,
            heard,
        }
    }

    fn write(&self, path: &str) {
        fs::write(self.data.path().join(path), "12345").unwrap();
    }

    /// Lets the clock of the file system go on.
    fn pause() {
        // A file may have the exact time, which the clock of `file_time` reaches later.
        let now = SystemTime::now();
        while file_time() <= now {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What was told: folder, name, and claim.
    async fn told(mut self) -> Vec<(OutputFolder, String, Claim)> {
        drop(self.ledger);
        let mut told = Vec::new();
        while let Some(event) = self.heard.recv().await {
            let Event::Left(files) = event else { continue };
            assert!(files.iter().all(|file| file.bytes == 5), "{files:?}");
            told.extend(files.into_iter().map(|file| (file.folder, file.filename, file.claim)));
        }
        told.sort_by(|a, b| a.1.cmp(&b.1));
        told
    }
}

fn file(folder: OutputFolder, filename: &str) -> OutputFile {
    OutputFile {
        node_id: "9".to_owned(),
        kind: FileKind::Image,
        filename: filename.to_owned(),
        subfolder: String::new(),
        folder,
        url: None,
        recoded: None,
        engine: None,
        base64: None,
    }
}

#[tokio::test]
async fn what_was_there_before_the_job_is_not_new_and_inputs_are_never_told() {
    let bench = Bench::new();
    for path in ["output/before.png", "input/keep.png"] {
        bench.write(path);
    }
    Bench::pause();
    bench.ledger.submits();
    bench.write("output/made.png");
    bench.write("temp/preview.png");
    bench.write("input/mask.png");
    let files = [
        file(OutputFolder::Output, "before.png"),
        file(OutputFolder::Output, "made.png"),
        file(OutputFolder::Output, "made.png"),
        file(OutputFolder::Output, "gone.png"),
        file(OutputFolder::Temp, "preview.png"),
        file(OutputFolder::Input, "keep.png"),
        file(OutputFolder::Input, "mask.png"),
    ];
    bench.ledger.files(&files);
    let path = |name: &str| bench.data.path().join("output").join(name);
    assert!(bench.ledger.has_made(&path("made.png")));
    assert!(!bench.ledger.has_made(&path("before.png")));
    let (output, temp) = (OutputFolder::Output, OutputFolder::Temp);
    assert_eq!(
        bench.told().await,
        [
            (output, "before.png".to_owned(), Claim::Named),
            (output, "made.png".to_owned(), Claim::Made),
            (temp, "preview.png".to_owned(), Claim::Made),
        ]
    );
}

#[tokio::test]
async fn a_file_that_a_job_only_adds_to_was_there_before() {
    let bench = Bench::new();
    bench.write("output/list.txt");
    if fs::metadata(bench.data.path().join("output/list.txt"))
        .unwrap()
        .created()
        .is_err()
    {
        // This file system does not keep that time.
        return;
    }
    Bench::pause();
    bench.ledger.submits();
    bench.write("output/list.txt");
    bench.ledger.files(&[file(OutputFolder::Output, "list.txt")]);
    assert_eq!(
        bench.told().await,
        [(OutputFolder::Output, "list.txt".to_owned(), Claim::Named)]
    );
}

#[tokio::test]
async fn what_a_node_tells_while_the_prompt_runs_is_taken_down_by_its_plain_name() {
    let bench = Bench::new();
    bench.ledger.submits();
    for name in ["output/sub/a.png", "output/Qwen\\a.png"] {
        bench.write(name);
    }
    let output = json!({"images": [
        {"filename": "a.png", "subfolder": "./sub", "type": "output"},
        {"filename": "Qwen\\a.png", "subfolder": "", "type": "output"},
        {"filename": "a.png", "subfolder": "../..", "type": "output"},
    ]});
    bench.ledger.outputs_in_background([(&"9".to_owned(), &output)]);
    let output = OutputFolder::Output;
    assert_eq!(
        bench.told().await,
        [
            (output, "Qwen\\a.png".to_owned(), Claim::Made),
            (output, "a.png".to_owned(), Claim::Made)
        ]
    );
}

#[tokio::test]
async fn what_an_attempt_left_without_a_word_is_found_by_name_and_time() {
    let bench = Bench::new();
    bench.write("output/sub/a_00001_.png");
    Bench::pause();
    let began = bench.ledger.submits();
    for name in ["a_00002_.png", "a_mine.png", "b_00001_.png"] {
        bench.write(&format!("output/sub/{name}"));
    }
    let graph = json!({"9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "sub/a"}}});
    let graph = Graph::parse(&graph).unwrap();
    bench.ledger.search_in_background(&graph, began, None);
    assert_eq!(
        bench.told().await,
        [(OutputFolder::Output, "a_00002_.png".to_owned(), Claim::Found)]
    );
}

#[tokio::test]
async fn what_came_after_an_earlier_life_of_the_worker_is_not_its_jobs() {
    let bench = Bench::new();
    let began = file_time();
    bench.write("output/a_00001_.png");
    Bench::pause();
    let until = file_time();
    Bench::pause();
    bench.write("output/a_00002_.png");
    let graph = json!({"9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}});
    let graph = Graph::parse(&graph).unwrap();
    bench.ledger.search_in_background(&graph, began, Some(until));
    assert_eq!(
        bench.told().await,
        [(OutputFolder::Output, "a_00001_.png".to_owned(), Claim::Found)]
    );
}

#[test]
fn the_id_of_a_prompt_tells_when_it_was_submitted() {
    let before = SystemTime::now() - Duration::from_millis(1);
    let told = submitted_at(&uuid::Uuid::now_v7().to_string()).unwrap();
    assert!(told >= before && told <= SystemTime::now());
    assert_eq!(submitted_at(&uuid::Uuid::new_v4().to_string()), None);
    assert_eq!(submitted_at("job-1"), None);
}
