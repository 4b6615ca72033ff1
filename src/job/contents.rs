//! Files that stand in a graph itself, where their names should stand: they become files of the job like those that the
//! request sends beside the graph.

use std::collections::HashMap;
use std::path::Path;

use super::image_header::ImageHeader;
use super::images::{ImageContent, ImageName, InputImage, MOST_IMAGES, Origin, Takes};
use super::medium::Medium;
use crate::error::{JobError, Problem};
use crate::workflow::{Graph, Schemas, contents};

/// How many of several files at fault an error tells.
const MOST_TOLD: usize = 16;

/// Takes the files out of the graph, and puts the names by which it finds them from now on in their places. `schemas` is what
/// ComfyUI says of the graph's classes; without it only loaders that are known anyway are looked at. Those at a URL are
/// still to be fetched, the same one in two places once.
pub fn take_contents(
    graph: &mut Graph,
    schemas: Option<&Schemas>,
    images: &mut Vec<InputImage>,
) -> Result<(), JobError> {
    let mut fetched: HashMap<String, ImageName> = HashMap::new();
    let mut errors: Vec<JobError> = Vec::new();
    let before = images.len();
    for (place, text) in contents(graph, schemas) {
        if let Some(name) = fetched.get(text.as_str()) {
            name.as_str().clone_into(text);
            continue;
        }
        if images.len() + errors.len() >= MOST_IMAGES {
            let message = format!(
                "the request has more than {MOST_IMAGES} images and files, {before} of them beside its graph and the others in it"
            );
            let error =
                JobError::invalid(message).hint("Send fewer, or name a file that several nodes load once, in `files`.");
            return Err(error.at("workflow"));
        }
        let origin = Origin::Graph(Box::new(place));
        let read = free_name(images, "").and_then(|name| InputImage::from_text_as(name, text, origin, Takes::Media));
        match read {
            Ok(mut image) => {
                // What it is, and so what it is called, is known only now.
                image.name = free_name(images, &ending(&image.content))?;
                let text = std::mem::replace(text, image.name.as_str().to_owned());
                if image.url().is_some() {
                    fetched.insert(text, image.name.clone());
                }
                images.push(image);
            }
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        count => {
            let problem = |error: &JobError| Problem {
                message: error.full_text(),
                ..Problem::default()
            };
            let problems = errors.iter().take(MOST_TOLD).map(problem).collect();
            Err(
                JobError::invalid(format!("Invalid request: {count} files in the graph cannot be taken"))
                    .problems(problems)
                    .at("workflow"),
            )
        }
    }
}

/// A name that no other file has: `graph_2.png` for the second one.
fn free_name(images: &[InputImage], ending: &str) -> Result<ImageName, JobError> {
    let is_of_graph = |image: &&InputImage| matches!(image.origin, Origin::Graph(_));
    let number = 1 + images.iter().filter(is_of_graph).count();
    let is_free = |name: &String| images.iter().all(|image| image.name.as_str() != name);
    let mut names = (number..).map(|number| format!("graph_{number}{ending}"));
    let name = names.find(is_free).unwrap_or_default();
    ImageName::parse(&name).map_err(JobError::internal)
}

/// The ending of a file's name, with its point: what is in it tells, or its address. Some nodes go by it.
fn ending(content: &ImageContent) -> String {
    let ending = match content {
        ImageContent::Here(content) => match Medium::of(content) {
            Some(medium) => medium.ending,
            None => ImageHeader::read(content).map_or("", |header| picture(header.media_type)),
        },
        ImageContent::Asset(_) => "",
        ImageContent::At(url) => {
            let ending = Path::new(url.path()).extension().and_then(|ending| ending.to_str());
            ending
                .filter(|ending| ending.len() <= 8 && ending.bytes().all(|byte| byte.is_ascii_alphanumeric()))
                .unwrap_or("")
        }
    };
    match ending {
        "" => String::new(),
        ending => format!(".{}", ending.to_ascii_lowercase()),
    }
}

fn picture(media_type: &'static str) -> &'static str {
    match media_type {
        "image/jpeg" => "jpg",
        "image/png" | "image/webp" | "image/gif" | "image/bmp" | "image/tiff" | "image/avif" => {
            &media_type["image/".len()..]
        }
        _ => "",
    }
}

#[cfg(test)]
#[path = "contents_tests.rs"]
mod tests;
