//! `PERFORMANCE=fast`: the arguments of ComfyUI that make it faster on this card, and why these and no others.
//!
//! Only what this ComfyUI knows is given, and nothing that the user chooses otherwise.

use std::fmt;
use std::fs;
use std::path::Path;

use super::command::{MEMORY_MODES, is_flag};

/// ComfyUI's argument for arithmetic that is faster and less exact; its values follow as words.
const FAST: &str = "--fast";
/// Products of matrices in 8 bits, where the weights are (`PerformanceFeature` in ComfyUI's `comfy/cli_args.py`).
const FP8: &str = "fp8_matrix_mult";
/// The generations whose fp8 products are taken: Ada and Hopper.
const WITH_FP8: [(u32, u32); 2] = [(8, 9), (9, 0)];
/// Others that it may know, and why they are not given.
const NOT_GIVEN: [(&str, &str); 3] = [
    (
        "fp16_accumulation",
        "it has ComfyUI prefer fp16, in which models made for bf16 may give black pictures",
    ),
    ("autotune", "each new size of picture would be timed first"),
    ("cublas_ops", "it serves models in fp16 alone"),
];

/// What the ComfyUI at hand knows and has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The values that its `--fast` takes, of those that matter here.
    features: Vec<&'static str>,
    /// Whether `SageAttention` is installed beside it.
    sage: bool,
}

impl Known {
    /// Looks at an installation. Blocks for a moment.
    pub fn of(root: &Path, python: &Path) -> Self {
        let declared = fs::read_to_string(root.join("comfy/cli_args.py")).unwrap_or_default();
        let packages = python.parent().and_then(Path::parent).map(|home| home.join("lib"));
        let folders = packages
            .and_then(|lib| fs::read_dir(lib).ok())
            .into_iter()
            .flatten()
            .flatten();
        let sage = folders
            .map(|python| python.path().join("site-packages/sageattention"))
            .any(|package| package.is_dir());
        Self {
            sage,
            ..Self::declared(&declared)
        }
    }

    fn declared(text: &str) -> Self {
        let is_there = |word: &str| text.contains(&format!("\"{word}\"")) || text.contains(&format!("'{word}'"));
        let all = NOT_GIVEN.iter().map(|(feature, _)| *feature).chain([FP8]);
        Self {
            features: if is_there(FAST) {
                all.filter(|feature| is_there(feature)).collect()
            } else {
                Vec::new()
            },
            sage: false,
        }
    }
}

/// What was chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Arguments for ComfyUI, to stand before the user's.
    pub arguments: Vec<String>,
    /// Why these, and why not others: a sentence each.
    pub reasons: Vec<String>,
}

impl Chosen {
    /// What each result warns of; nothing where nothing is changed.
    pub fn warning(&self) -> Option<String> {
        (!self.arguments.is_empty()).then(|| {
            format!(
                "the picture may differ visibly from one made with PERFORMANCE=exact (how much was not measured): ComfyUI runs with {}",
                self.arguments.join(" ")
            )
        })
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.arguments.is_empty() {
            f.write_str("nothing is set")?;
        } else {
            f.write_str(&self.arguments.join(" "))?;
        }
        for reason in &self.reasons {
            write!(f, "; {reason}")?;
        }
        Ok(())
    }
}

/// Chooses for a card of this compute capability, a ComfyUI that knows so much, and what the user gives it anyway.
pub fn choose(card: Option<(u32, u32)>, known: &Known, user: &[String]) -> Chosen {
    let mut chosen = Chosen::default();
    let gives = |flag: &str| user.iter().any(|argument| is_flag(argument, flag));
    let because = |reason: String| Chosen {
        reasons: vec![reason],
        ..Chosen::default()
    };
    let Some((major, minor)) = card else {
        return because("there is no NVIDIA GPU that says what it can compute".to_owned());
    };
    if gives(MEMORY_MODES[0]) {
        return because("COMFYUI_ARGS runs ComfyUI on the CPU".to_owned());
    }
    let mut tell = |reason: String| chosen.reasons.push(reason);
    let mut arguments = Vec::new();
    if gives(FAST) {
        tell("COMFYUI_ARGS has --fast, which stands".to_owned());
    } else if known.features.is_empty() {
        tell("this ComfyUI has no --fast with values".to_owned());
    } else {
        if !known.features.contains(&FP8) {
            tell(format!("this ComfyUI does not know {FP8}"));
        } else if WITH_FP8.contains(&(major, minor)) {
            tell(format!(
                "{FP8}: a card of compute capability {major}.{minor} multiplies in fp8 what is stored in fp8; what is multiplied with it is rounded to fp8 too, which pictures show"
            ));
            arguments = vec![FAST.to_owned(), FP8.to_owned()];
        } else {
            tell(format!(
                "{FP8} is for Ada and Hopper (8.9, 9.0), and this card is {major}.{minor}"
            ));
        }
        for (feature, why) in NOT_GIVEN {
            if known.features.contains(&feature) {
                tell(format!("not {feature}: {why}"));
            }
        }
    }
    if known.sage && !user.iter().any(|argument| argument.ends_with("-attention")) {
        tell(
            "not SageAttention, although it is installed: it is known to make Qwen-Image's pictures black (ComfyUI issue 9184); COMFYUI_ARGS=--use-sage-attention sets it"
                .to_owned(),
        );
    }
    chosen.arguments = arguments;
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ComfyUI 0.30.0 declares it.
    const DECLARED: &str = r#"
        Fp16Accumulation = "fp16_accumulation"
        Fp8MatrixMultiplication = "fp8_matrix_mult"
        CublasOps = "cublas_ops"
        AutoTune = "autotune"
    parser.add_argument("--fast", nargs="*", type=PerformanceFeature, help="")
    "#;

    fn arguments(card: Option<(u32, u32)>, known: &Known, user: &[&str]) -> Vec<String> {
        let user: Vec<String> = user.iter().map(|word| (*word).to_owned()).collect();
        choose(card, known, &user).arguments
    }

    #[test]
    fn fp8_products_are_for_ada_and_hopper() {
        let known = Known::declared(DECLARED);
        for (card, is_given) in [
            ((7, 5), false),
            ((8, 0), false),
            ((8, 6), false),
            ((8, 9), true),
            ((9, 0), true),
            ((10, 0), false),
            ((12, 0), false),
        ] {
            let expected: &[&str] = if is_given { &[FAST, FP8] } else { &[] };
            assert_eq!(arguments(Some(card), &known, &[]), expected, "{card:?}");
        }
    }

    #[test]
    fn without_a_card_nothing_is_set_and_that_is_said() {
        let chosen = choose(None, &Known::declared(DECLARED), &[]);
        assert_eq!(chosen.arguments, [""; 0]);
        assert_eq!(chosen.warning(), None);
        assert_eq!(
            chosen.to_string(),
            "nothing is set; there is no NVIDIA GPU that says what it can compute"
        );
    }

    #[test]
    fn what_the_user_chooses_stands() {
        let known = Known::declared(DECLARED);
        for user in [
            &["--fast"][..],
            &["--fast", "autotune"],
            &["--fast=autotune"],
            &["--cpu"],
        ] {
            assert_eq!(arguments(Some((8, 9)), &known, user), [""; 0], "{user:?}");
        }
        assert_eq!(
            arguments(Some((8, 9)), &known, &["--fast-disk", "--lowvram"]),
            [FAST, FP8]
        );
    }

    #[test]
    fn no_argument_is_given_that_comfyui_does_not_know() {
        let older = DECLARED.replace(FP8, "other");
        let oldest = "parser.add_argument(\"--fast\", action=\"store_true\")";
        for text in ["", oldest, &older] {
            assert_eq!(arguments(Some((9, 0)), &Known::declared(text), &[]), [""; 0], "{text}");
        }
    }

    #[test]
    fn sage_attention_is_named_and_not_set() {
        let known = Known {
            sage: true,
            ..Known::declared(DECLARED)
        };
        let chosen = choose(Some((9, 0)), &known, &[]);
        assert_eq!(chosen.arguments, [FAST, FP8]);
        assert!(chosen.to_string().contains("issue 9184"), "{chosen}");
        assert!(
            chosen
                .warning()
                .is_some_and(|warning| warning.contains("visibly") && warning.contains(FP8))
        );
        let own = choose(Some((9, 0)), &known, &["--use-sage-attention".to_owned()]);
        assert!(!own.to_string().contains("9184"), "{own}");
    }
}
