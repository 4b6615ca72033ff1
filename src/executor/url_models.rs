//! Stage: models that the graph names by their addresses are taken out of it, fetched, and named as ComfyUI lists them.

use std::sync::Arc;

use crate::error::{ErrorKind, Fault, FaultKind, JobError, Problem};
use crate::job::progress::Stage;
use crate::job::{TemplateRequest, Work};
use crate::models::{Held, Models};
use crate::workflow::{
    AddressedModel, Expected, Graph, INVALID_WORKFLOW, ModelAddress, Schemas, USER_LORA, addressed_models,
    may_address_models, model_behind, put_model, shown_address,
};

use super::Executor;
use super::control::{Event, ProgressSink};

/// The most addresses of a graph: more than there are LoRAs of a request.
const MOST: usize = 32;
/// The folder of those that change another model.
const LORAS: &str = "loras";

/// What the stage leaves. Dropping it lets the models go.
#[derive(Debug, Default)]
pub(super) struct UrlModels {
    named: Vec<Named>,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
    held: Vec<Arc<Held>>,
}

/// A model that was put into the graph.
#[derive(Debug)]
struct Named {
    folder: &'static str,
    /// In the request.
    address: String,
    /// In the graph.
    name: String,
}

impl UrlModels {
    /// The addresses in the request, and the names in the graph.
    pub(super) fn names(&self) -> impl Iterator<Item = (String, String)> {
        let named = self.named.iter();
        named.map(|named| (named.address.clone(), named.name.clone()))
    }

    /// Names the models as the request knows them, without what may be secret in it.
    pub(super) fn told(&self, mut error: JobError) -> JobError {
        for named in &self.named {
            let texts = error.problems.iter_mut().map(|problem| &mut problem.message);
            for text in texts.chain([&mut error.message]) {
                if text.contains(&named.name) {
                    *text = text.replace(&named.name, &shown_address(&named.address));
                }
            }
        }
        error
    }
}

impl Executor {
    /// Has the models there that a graph names by their addresses. `of_template`: the graph is ours, and the request's field
    /// `loras` named them.
    pub(super) async fn take_url_models(
        &self,
        graph: &mut Graph,
        of_template: bool,
        sink: &mut ProgressSink<'_>,
    ) -> Result<UrlModels, JobError> {
        let mut taken = UrlModels::default();
        if !may_address_models(graph) {
            return Ok(taken);
        }
        let schemas = self.described(graph, sink.owner).await?;
        let mut places = addressed_models(graph, &schemas);
        few_enough(&places)?;
        // What a LoRA is to change is there before it.
        places.sort_by_key(|place| place.folder == LORAS);
        let mut tells = false;
        for place in places {
            let is_this = |named: &&Named| named.address == place.address && named.folder == place.folder;
            if let Some(known) = taken.named.iter().find(is_this) {
                put_model(graph, &place, &known.name);
                continue;
            }
            let base = model_behind(graph, &place.node).filter(|_| place.folder == LORAS);
            let base = base.map(|(folder, name)| (folder, name.to_owned()));
            let model = self.models.by_url(&place, base, |download| {
                if !std::mem::replace(&mut tells, true) {
                    sink.owner.tell(Event::Downloading);
                }
                sink.change(|tracker| tracker.download(download));
            });
            let model = model.await.map_err(|error| at_place(error, &place, of_template))?;
            put_model(graph, &place, &model.name);
            taken.named.push(Named {
                folder: place.folder,
                address: place.address,
                name: model.name,
            });
            taken.warnings.extend(model.warning);
            taken.held.push(model.held);
        }
        if tells {
            sink.stage(Stage::Preparing);
        }
        Ok(taken)
    }
}

/// Takes the addresses out of a graph that is only to be checked, as if their models were there; or says which may not be
/// named.
pub(super) fn expect_url_models(
    graph: &mut Graph,
    schemas: &Schemas,
    models: &Models,
    expected: &mut Vec<Expected>,
) -> Result<(), JobError> {
    let places = addressed_models(graph, schemas);
    few_enough(&places)?;
    for (number, place) in places.into_iter().enumerate() {
        models
            .may_name(&place.address)
            .map_err(|error| of_graph(&error, &place))?;
        let name = format!("by-url-{number}.safetensors");
        put_model(graph, &place, &name);
        expected.push(Expected {
            name,
            model: Some(place.folder.to_owned()),
        });
    }
    Ok(())
}

/// What is wrong with an address, as a fault of the graph that has it.
fn of_graph(error: &JobError, place: &AddressedModel) -> JobError {
    let fault = Fault::new(
        FaultKind::CustomValidation,
        "Custom validation failed for node",
        format!("{} - {}", place.input, error.message),
    );
    let fault = Some(Box::new(fault.with("input_name", place.input.as_str())));
    let problem = Problem {
        fault,
        ..problem_at(place, error.full_text())
    };
    JobError::new(ErrorKind::InvalidWorkflow, INVALID_WORKFLOW)
        .problems(vec![problem])
        .at("workflow")
}

/// Looks at the addresses of a request without a graph.
pub(super) fn check_loras(request: &TemplateRequest, models: &Models) -> Result<(), JobError> {
    for (index, lora) in request.loras.iter().enumerate() {
        if ModelAddress::is_meant(&lora.name) {
            let may = models.may_name(&lora.name);
            may.map_err(|error| error.at(format!("loras[{index}]")))?;
        }
    }
    Ok(())
}

/// Whether the request fills a template.
pub(super) fn is_of_template(work: &Work) -> bool {
    matches!(work, Work::Template(_))
}

fn few_enough(places: &[AddressedModel]) -> Result<(), JobError> {
    if places.len() <= MOST {
        return Ok(());
    }
    let message = format!("the graph names {} models by URL, and the most is {MOST}", places.len());
    Err(JobError::new(ErrorKind::InvalidRequest, message)
        .hint("Have the others installed, and name them as ComfyUI lists them.")
        .at("workflow"))
}

fn problem_at(place: &AddressedModel, message: String) -> Problem {
    Problem {
        node_id: Some(place.node.clone()),
        class_type: Some(place.class.clone()),
        input: Some(place.input.clone()),
        message,
        fault: None,
    }
}

/// Says where the request has the address: the entry of its list, or the node of its graph.
fn at_place(error: JobError, place: &AddressedModel, of_template: bool) -> JobError {
    let number = place.node.strip_prefix(USER_LORA);
    let number = number.and_then(|number| number.parse::<usize>().ok());
    match number.filter(|_| of_template) {
        Some(number) => error.at(format!("loras[{}]", number.saturating_sub(1))),
        None if error.kind == ErrorKind::InvalidRequest => of_graph(&error, place),
        None => {
            let problem = problem_at(place, "this model is named here".to_owned());
            error.problems(vec![problem]).at("workflow")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(node: &str) -> AddressedModel {
        AddressedModel {
            node: node.to_owned(),
            class: "LoraLoaderModelOnly".to_owned(),
            input: "lora_name".to_owned(),
            folder: LORAS,
            address: "https://civitai.com/api/download/models/7?token=4711".to_owned(),
        }
    }

    #[test]
    fn what_is_wrong_is_told_where_it_stands() {
        let missing = || JobError::new(ErrorKind::ModelMissing, "Failed to load model: civitai:7: no");
        let of_template = at_place(missing(), &place("user-lora-2"), true);
        assert_eq!(of_template.field.as_deref(), Some("loras[1]"));
        // A graph's own node may have any name.
        for node in ["user-lora-2", "lora"] {
            let error = at_place(missing(), &place(node), false);
            let text = error.full_text();
            assert_eq!(
                (error.kind, error.field.as_deref()),
                (ErrorKind::ModelMissing, Some("workflow"))
            );
            assert!(
                text.starts_with("Failed to load model: civitai:7: no\n- node "),
                "{text}"
            );
        }
        let refused = at_place(JobError::invalid("not from there"), &place("lora"), false);
        assert_eq!(refused.kind, ErrorKind::InvalidWorkflow);
        assert!(refused.problems[0].fault.is_some() && refused.full_text().contains("not from there"));
        few_enough(&vec![place("a"); MOST]).unwrap();
        assert!(
            few_enough(&vec![place("a"); MOST + 1])
                .unwrap_err()
                .message
                .contains("33 models")
        );
    }

    #[test]
    fn errors_name_a_model_as_its_owner_does_and_show_no_key() {
        let mut taken = UrlModels::default();
        taken.named.push(Named {
            folder: LORAS,
            address: place("lora").address,
            name: "qwen-image-worker-urls/00.safetensors".to_owned(),
        });
        let error = JobError::invalid("qwen-image-worker-urls/00.safetensors is not listed");
        let told = taken.told(error).message;
        assert_eq!(told, "civitai:7 is not listed");
        assert!(taken.names().next().unwrap().0.ends_with("4711"));
    }
}
