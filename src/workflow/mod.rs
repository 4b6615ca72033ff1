//! Workflows as data: graphs, templates with their bindings, and the check of a graph against what is installed.
//! No I/O happens here.
