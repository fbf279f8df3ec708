//! Which captures a job reads, and under which labels.
//!
//! Two ways to say so: paths (files, and folders searched for captures), and a manifest in CSV. Nothing is read
//! here beyond the first bytes of files found in folders.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::file::is_capture;

/// Folders within folders that are searched at most.
const DEPTH_MAX: usize = 32;
/// Captures of one job at most.
const CAPTURES_MAX: usize = 1_000_000;
/// What a manifest says where nobody has granted a right to use the capture.
const NO_LICENCE: &str = "none-stated";

/// A capture with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledCapture {
    /// The file.
    pub path: PathBuf,
    /// What its traffic is.
    pub label: String,
}

/// What to take from a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestFilter {
    /// Only rows with one of these labels; all where `None`.
    pub labels: Option<Vec<String>>,
    /// Only rows that state a licence: the column `licence` is neither empty nor `none-stated`.
    pub licensed_only: bool,
}

/// Why no list of captures could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectionError {
    /// A path given by the user cannot be read.
    #[error("cannot read {}", path.display())]
    Path {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder holds no capture.
    #[error("no pcap or pcapng file in {}", path.display())]
    NoCaptures {
        /// The folder.
        path: PathBuf,
    },
    /// More captures, or deeper folders, than a job reads.
    #[error("{} is too large: at most {CAPTURES_MAX} captures, in folders at most {DEPTH_MAX} deep, are read", path.display())]
    TooLarge {
        /// The path at which the limit was reached.
        path: PathBuf,
    },
    /// The manifest is not CSV.
    #[error("manifest {} is not readable as CSV", path.display())]
    Csv {
        /// The manifest.
        path: PathBuf,
        /// What the parser said, with the line.
        source: csv::Error,
    },
    /// The manifest lacks a column that is needed.
    #[error("manifest {}: line 1 has no column `{column}`", path.display())]
    Column {
        /// The manifest.
        path: PathBuf,
        /// The column.
        column: &'static str,
    },
    /// A row of the manifest is of no use.
    #[error("manifest {}: line {line}, column `{column}`: {problem}", path.display())]
    Row {
        /// The manifest.
        path: PathBuf,
        /// Line in the file, the first being 1.
        line: u64,
        /// The column.
        column: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// The filter leaves nothing.
    #[error("manifest {}: none of its {rows} rows is left after filtering by label and licence", path.display())]
    NothingLeft {
        /// The manifest.
        path: PathBuf,
        /// Rows in the manifest.
        rows: usize,
    },
}

/// The captures that `paths` name, in the order given, those of a folder sorted by path.
///
/// A file is taken as it is, whatever it holds; `-` is standard input. A folder is searched through, for files that
/// begin like a capture; one that does not, but is named `.pcap`, `.pcapng`, `.cap` or `.dmp`, is taken as well, so that
/// whoever reads it can say that it is broken. Folders behind symbolic links are not entered.
///
/// The label is `label` where given, else, for a file in a folder below the one named, the name of the folder that it
/// is in (`captures/web/a.pcap` found through `captures` is `web`), else the file's name without its extension.
pub fn from_paths(paths: &[PathBuf], label: Option<&str>) -> Result<Vec<LabelledCapture>, CollectionError> {
    let mut ret = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            ret.push(LabelledCapture { path: path.clone(), label: label.unwrap_or("stdin").to_owned() });
            continue;
        }
        let metadata =
            std::fs::metadata(path).map_err(|source| CollectionError::Path { path: path.clone(), source })?;
        if !metadata.is_dir() {
            ret.push(LabelledCapture { path: path.clone(), label: label.map_or_else(|| stem(path), str::to_owned) });
            continue;
        }
        let mut found = Vec::new();
        walk(path, 0, &mut found)?;
        if found.is_empty() {
            return Err(CollectionError::NoCaptures { path: path.clone() });
        }
        found.sort();
        ret.extend(found.into_iter().map(|file| {
            let label = label.map_or_else(|| label_below(path, &file), str::to_owned);
            LabelledCapture { path: file, label }
        }));
    }
    Ok(ret)
}

/// The captures of a manifest: CSV with a header line and the columns `path` (relative to the manifest's folder) and
/// `label`, and `licence` if it is to be filtered by; other columns are not looked at.
///
/// # Errors
/// Names the line and the column. Whether the files exist is found out by whoever reads them.
pub fn from_manifest(manifest: &Path, filter: &ManifestFilter) -> Result<Vec<LabelledCapture>, CollectionError> {
    let csv_error = |source| CollectionError::Csv { path: manifest.to_owned(), source };
    let file = File::open(manifest).map_err(|source| CollectionError::Path { path: manifest.to_owned(), source })?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let header = reader.headers().map_err(csv_error)?.clone();
    let column = |column| {
        let missing = || CollectionError::Column { path: manifest.to_owned(), column };
        // Spreadsheets begin their CSV with a byte order mark.
        header.iter().position(|name| name.trim_start_matches('\u{feff}') == column).ok_or_else(missing)
    };
    let (path_column, label_column) = (column("path")?, column("label")?);
    let licence_column = if filter.licensed_only { Some(column("licence")?) } else { None };
    let folder = manifest.parent().unwrap_or(Path::new(""));

    let (mut ret, mut rows) = (Vec::new(), 0);
    for record in reader.records() {
        let record = record.map_err(csv_error)?;
        rows += 1;
        let field = |index: usize, column| match record.get(index) {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(CollectionError::Row {
                path: manifest.to_owned(),
                line: record.position().map_or(0, csv::Position::line),
                column,
                problem: "is empty",
            }),
        };
        let (path, label) = (field(path_column, "path")?, field(label_column, "label")?);
        let is_licensed = licence_column.is_none_or(|i| !matches!(record.get(i), None | Some("" | NO_LICENCE)));
        let is_wanted = filter.labels.as_ref().is_none_or(|labels| labels.iter().any(|l| l == label));
        if is_licensed && is_wanted {
            ret.push(LabelledCapture { path: folder.join(path), label: label.to_owned() });
        }
        if ret.len() > CAPTURES_MAX {
            return Err(CollectionError::TooLarge { path: manifest.to_owned() });
        }
    }
    if ret.is_empty() {
        return Err(CollectionError::NothingLeft { path: manifest.to_owned(), rows });
    }
    Ok(ret)
}

/// Adds the captures in `folder` and below to `ret`.
fn walk(folder: &Path, depth: usize, ret: &mut Vec<PathBuf>) -> Result<(), CollectionError> {
    if depth > DEPTH_MAX || ret.len() > CAPTURES_MAX {
        return Err(CollectionError::TooLarge { path: folder.to_owned() });
    }
    let io_error = |source| CollectionError::Path { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io_error)? {
        let entry = entry.map_err(io_error)?;
        let path = entry.path();
        if entry.file_type().map_err(io_error)?.is_dir() {
            walk(&path, depth + 1, ret)?;
        } else if path.is_file() && (begins_like_capture(&path) || is_named_like_capture(&path)) {
            ret.push(path);
        }
    }
    Ok(())
}

fn begins_like_capture(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && is_capture(magic)
}

fn is_named_like_capture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    ["pcap", "pcapng", "cap", "dmp"].iter().any(|known| extension == *known)
}

fn label_below(folder: &Path, file: &Path) -> String {
    let parent = file.strip_prefix(folder).ok().and_then(Path::parent).and_then(Path::file_name);
    parent.map_or_else(|| stem(file), |name| name.to_string_lossy().into_owned())
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| "capture".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NANOS_LE: [u8; 4] = [0x4d, 0x3c, 0xb2, 0xa1];

    fn names(captures: &[LabelledCapture]) -> Vec<(String, &str)> {
        captures.iter().map(|c| (c.path.file_name().unwrap().to_string_lossy().into_owned(), &c.label[..])).collect()
    }

    fn manifest(text: &str, filter: &ManifestFilter) -> Result<Vec<LabelledCapture>, CollectionError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.csv");
        std::fs::write(&path, text).unwrap();
        let mut ret = from_manifest(&path, filter)?;
        ret.iter_mut().for_each(|c| c.path = c.path.strip_prefix(dir.path()).unwrap().to_owned());
        Ok(ret)
    }

    #[test]
    fn folders_are_searched_by_magic_and_label_by_the_folder_below() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("web/old")).unwrap();
        for (name, bytes) in [
            ("top.bin", &NANOS_LE[..]),
            ("notes.csv", b"path,label"),
            ("web/b", &[0x0a, 0x0d, 0x0d, 0x0a]),
            ("web/a.txt", &[0xa1, 0xb2, 0xc3, 0xd4]),
            ("web/old/c.pcap", b""), // broken, but whoever reads it must say so
        ] {
            std::fs::write(at(name), bytes).unwrap();
        }
        let found = from_paths(&[dir.path().to_owned()], None).unwrap();
        let expected = [("top.bin", "top"), ("a.txt", "web"), ("b", "web"), ("c.pcap", "old")];
        assert_eq!(names(&found), expected.map(|(n, l)| (n.to_owned(), l)));

        let files = from_paths(&[at("web/b"), at("notes.csv"), "-".into()], None).unwrap();
        assert_eq!(names(&files[..2]), [("b".to_owned(), "b"), ("notes.csv".to_owned(), "notes")]);
        assert_eq!(files[2].label, "stdin");
        let labelled = from_paths(&[dir.path().to_owned()], Some("mine")).unwrap();
        assert!(labelled.iter().all(|c| c.label == "mine"));
    }

    #[test]
    fn a_folder_without_captures_and_a_missing_path_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(from_paths(&[dir.path().to_owned()], None), Err(CollectionError::NoCaptures { .. })));
        let missing = from_paths(&[dir.path().join("no")], None).unwrap_err();
        assert!(missing.to_string().contains("/no"), "{missing}");
    }

    #[test]
    fn manifest_rows_are_filtered_by_label_and_licence() {
        let text = "licence,path,label\nMIT,a/1.pcap,web\nnone-stated,2.pcap,web\n,3.pcap,dns\nMIT,4.pcap,ssh\n";
        let all = manifest(text, &ManifestFilter::default()).unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(all[0], LabelledCapture { path: "a/1.pcap".into(), label: "web".into() });
        let licensed = manifest(text, &ManifestFilter { labels: None, licensed_only: true }).unwrap();
        assert_eq!(names(&licensed), [("1.pcap".to_owned(), "web"), ("4.pcap".to_owned(), "ssh")]);
        let ssh = ManifestFilter { labels: Some(vec!["ssh".into(), "nfs".into()]), licensed_only: false };
        assert_eq!(names(&manifest(text, &ssh).unwrap()), [("4.pcap".to_owned(), "ssh")]);
        let none = ManifestFilter { labels: Some(vec!["nfs".into()]), licensed_only: false };
        assert!(matches!(manifest(text, &none), Err(CollectionError::NothingLeft { rows: 4, .. })));
    }

    #[test]
    fn bad_manifests_name_line_and_column() {
        let of = |text: &str, licensed_only| {
            let e = manifest(text, &ManifestFilter { labels: None, licensed_only }).unwrap_err();
            match std::error::Error::source(&e) {
                Some(cause) => format!("{e}: {cause}"),
                None => e.to_string(),
            }
        };
        assert!(of("path,label\na.pcap,x\nb.pcap,\n", false).ends_with("line 3, column `label`: is empty"));
        assert!(of("path,label\n,x\n", false).ends_with("line 2, column `path`: is empty"));
        assert!(of("file,label\na,x\n", false).ends_with("line 1 has no column `path`"));
        assert!(of("path,label\na,x\n", true).ends_with("line 1 has no column `licence`"));
        assert!(of("path,label\na,x\nb\n", false).contains("line: 3"));
    }
}
