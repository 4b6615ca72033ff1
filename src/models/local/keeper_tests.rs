use super::super::tests::{HOUR, Machine, age};
use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn keep(machine: &Machine, wanted: &[&str]) {
    let mut keeper = Keeper::new(machine.local.clone(), Arc::new(machine.places()));
    keeper.keep(names(wanted), &CancellationToken::new());
}

#[test]
fn models_on_volumes_are_copied_and_others_are_not() {
    let machine = Machine::new(1000);
    let original = machine.write("volume/models/unet/sub/a.safetensors", &[7; 400]);
    machine.write("data/base/models/vae/b.safetensors", &[7; 40]);
    keep(&machine, &["sub/a.safetensors", "b.safetensors", "nowhere.safetensors"]);
    let copy = machine.local.folder().join("diffusion_models/sub/a.safetensors");
    assert_eq!(fs::read(&copy).unwrap(), fs::read(original).unwrap());
    assert_eq!(machine.files(), 2);
    machine.local.tidy(&machine.places());
    assert!(copy.is_file());
}

#[test]
fn a_name_that_leads_out_of_its_folder_is_none() {
    let machine = Machine::new(1000);
    let outside = machine.write("volume/other/a.safetensors", &[7; 40]);
    machine.write("volume/models/loras/x/b.safetensors", &[7; 40]);
    keep(
        &machine,
        &[
            "../../other/a.safetensors",
            &outside.display().to_string(),
            "x/../x/b.safetensors",
            "",
        ],
    );
    assert_eq!(machine.files(), 0);
}

#[test]
fn what_exceeds_the_limit_is_copied_in_part_and_not_in_turn() {
    let machine = Machine::new(1000);
    for name in ["a", "b"] {
        machine.write(&format!("volume/models/vae/{name}.safetensors"), &[7; 600]);
    }
    for _ in 0..2 {
        keep(&machine, &["a.safetensors", "b.safetensors"]);
        let copy = |name: &str| machine.local.folder().join("vae").join(name).is_file();
        assert!(copy("a.safetensors") && !copy("b.safetensors"));
    }
    // What is used again is not what makes room.
    age(&machine.local.folder().join("vae/a.safetensors"), 2 * HOUR);
    keep(&machine, &["b.safetensors", "a.safetensors"]);
    assert!(machine.local.folder().join("vae/a.safetensors").is_file());
}

#[test]
fn a_name_is_looked_at_now_and_then() {
    let machine = Machine::new(1000);
    let mut keeper = Keeper::new(machine.local.clone(), Arc::new(machine.places()));
    let stop = CancellationToken::new();
    keeper.keep(names(&["a.safetensors"]), &stop);
    machine.write("volume/models/vae/a.safetensors", &[7; 40]);
    keeper.keep(names(&["a.safetensors"]), &stop);
    assert_eq!(machine.files(), 0);
    keeper.looked_at.clear();
    keeper.keep(names(&["a.safetensors"]), &stop);
    assert_eq!(machine.files(), 2);
}

#[test]
fn a_copy_with_another_content_is_none_and_a_worker_that_stops_leaves_nothing() {
    let machine = Machine::new(1000);
    let stop = CancellationToken::new();
    let part = machine.write("data/part", b"changed on its way");
    let differs = compare(&part, blake3::hash(b"as it was read"), &stop);
    assert!(matches!(differs, Err(NotCopied::Differs)), "{differs:?}");
    compare(&part, blake3::hash(b"changed on its way"), &stop).unwrap();
    stop.cancel();
    let original = machine.write("volume/models/vae/a.safetensors", &[7; 40]);
    let target = machine.local.folder().join("vae/a.safetensors");
    let stopped = machine.local.copy(&original, &target, &stop);
    assert!(matches!(stopped, Err(NotCopied::Stopped)), "{stopped:?}");
    let too_large = machine.write("volume/models/vae/b.safetensors", &[7; 1001]);
    let refused = machine.local.copy(&too_large, &target, &stop);
    assert!(matches!(refused, Err(NotCopied::TooLarge)), "{refused:?}");
    assert_eq!(machine.files(), 0);
}
