//! Tensors in safetensors files: our flat buffers out, and ours or Hugging Face's in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};

use super::error::CheckpointError;
use crate::engine::cpu::kernels::round_to_bf16;
use crate::mamba::{MambaConfig, ParamLayout, Params};

/// Name of the parameters' file.
pub(super) const MODEL_FILE: &str = "model.safetensors";
/// The head, where a file repeats the embedding under its name.
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "backbone.embeddings.weight";

// The format is little-endian, and so are the buffers that are written as they lie.
const _: () = assert!(cfg!(target_endian = "little"), "safetensors files are written on little-endian machines only");

/// A tensor to be written: name, shape, elements.
pub(super) type Tensor<'a> = (&'a str, Vec<usize>, &'a [f32]);

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 32 bits, exactly.
    F32,
    /// 16 bits, rounded to the nearest bf16 number.
    Bf16,
}

impl Width {
    fn dtype(self) -> Dtype {
        match self {
            Width::F32 => Dtype::F32,
            Width::Bf16 => Dtype::BF16,
        }
    }

    /// Bytes of a number.
    fn bytes(self) -> usize {
        match self {
            Width::F32 => 4,
            Width::Bf16 => 2,
        }
    }
}

/// Writes tensors in their order, without a second copy in memory.
pub(super) fn write(out: &mut dyn Write, width: Width, tensors: &[Tensor<'_>]) -> io::Result<()> {
    let mut infos = Vec::with_capacity(tensors.len());
    let mut offset = 0;
    for (name, shape, values) in tensors {
        let end = offset + width.bytes() * values.len();
        infos.push((
            (*name).to_owned(),
            TensorInfo { dtype: width.dtype(), shape: shape.clone(), data_offsets: (offset, end) },
        ));
        offset = end;
    }
    // transformers refuses files that do not say which framework's they are.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, _, values) in tensors {
        match width {
            Width::F32 => out.write_all(bytemuck::cast_slice(values))?,
            Width::Bf16 => values.iter().try_for_each(|v| out.write_all(&bf16_bits(*v).to_le_bytes()))?,
        }
    }
    Ok(())
}

/// The nearest bf16 number.
fn bf16_bits(v: f32) -> u16 {
    (round_to_bf16(v).to_bits() >> 16) as u16
}

/// Writes parameters under Hugging Face's names.
pub(super) fn write_params(out: &mut dyn Write, width: Width, params: &Params) -> io::Result<()> {
    let entries = &params.layout.entries;
    let tensors: Vec<Tensor<'_>> =
        entries.iter().map(|e| (e.name.as_str(), e.shape.clone(), &params.data[e.range()])).collect();
    write(out, width, &tensors)
}

/// Opens the bytes of a safetensors file.
pub(super) fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, CheckpointError> {
    SafeTensors::deserialize(bytes)
        .map_err(|e| CheckpointError::Invalid { path: path.to_owned(), what: format!("not a safetensors file: {e}") })
}

/// Reads parameters: every tensor of the layout, and none that is unknown.
///
/// f16 and bf16 are widened. A head of its own is accepted where it equals the embedding, as in files saved with the tied tensor twice.
pub(super) fn parse_params(path: &Path, bytes: &[u8], config: &MambaConfig) -> Result<Params, CheckpointError> {
    let file = open(path, bytes)?;
    let error = |tensor: &str, expected: String, found: String| CheckpointError::Tensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        expected,
        found,
    };
    let in_file: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
    let layout = Arc::new(ParamLayout::new(config));
    // Grows with what the file has, so that a small file cannot ask for a large network.
    let mut data = Vec::new();
    for entry in &layout.entries {
        let expected = || format!("shape {:?}", entry.shape);
        let tensor = in_file.get(&entry.name).ok_or_else(|| error(&entry.name, expected(), "no such tensor".into()))?;
        if tensor.shape() != entry.shape {
            return Err(error(&entry.name, expected(), format!("shape {:?}", tensor.shape())));
        }
        widen(tensor, &mut data)
            .ok_or_else(|| error(&entry.name, "dtype F32, F16 or BF16".into(), format!("{:?}", tensor.dtype())))?;
        if let Some(bad) = data[entry.offset..].iter().find(|x| !x.is_finite()) {
            return Err(error(&entry.name, "finite numbers".into(), bad.to_string()));
        }
    }
    let known: HashSet<&str> = layout.entries.iter().map(|e| e.name.as_str()).collect();
    if let Some(head) = in_file.get(HEAD) {
        let tied = &in_file[EMBEDDING];
        if (head.dtype(), head.shape(), head.data()) != (tied.dtype(), tied.shape(), tied.data()) {
            return Err(error(HEAD, format!("the same as {EMBEDDING} (tied)"), "another tensor".into()));
        }
    }
    if let Some(name) = in_file.keys().find(|n| !known.contains(n.as_str()) && *n != HEAD) {
        return Err(error(name, "no such tensor".into(), format!("shape {:?}", in_file[name].shape())));
    }
    Ok(Params { layout, data })
}

/// Appends a tensor's elements as f32; `None` for other types.
fn widen(tensor: &TensorView<'_>, ret: &mut Vec<f32>) -> Option<()> {
    let bytes = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => ret.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::BF16 => {
            ret.extend(
                bytes.as_chunks::<2>().0.iter().map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
            );
        }
        Dtype::F16 => ret.extend(bytes.as_chunks::<2>().0.iter().map(|b| f16_to_f32(u16::from_le_bytes(*b)))),
        _ => return None,
    }
    Some(())
}

/// An IEEE 754 binary16 number as f32; exact.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

/// Reads the f32 tensor `name` with `len` elements.
pub(super) fn f32_tensor(
    path: &Path,
    file: &SafeTensors<'_>,
    name: &str,
    len: usize,
) -> Result<Vec<f32>, CheckpointError> {
    let error = |found: String| CheckpointError::Tensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
        expected: format!("{len} elements of F32"),
        found,
    };
    let tensor = file.tensor(name).map_err(|_| error("no such tensor".into()))?;
    let found = tensor.shape().iter().product::<usize>();
    if tensor.dtype() != Dtype::F32 || found != len {
        return Err(error(format!("{found} elements of {:?}", tensor.dtype())));
    }
    let mut values = Vec::with_capacity(len);
    widen(&tensor, &mut values);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_widened_exactly() {
        // Values from IEEE 754-2019, table 3.5's parameters, worked out by hand.
        let cases = [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 2f32.powi(-14)),
            (0x0001, 2f32.powi(-24)),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
        ];
        for (bits, expected) in cases {
            assert_eq!(f16_to_f32(bits), expected, "{bits:04x}");
        }
        assert!(f16_to_f32(0x7e00).is_nan());
    }

    #[test]
    fn written_tensors_are_read_by_the_safetensors_crate() {
        let mut bytes = Vec::new();
        write(&mut bytes, Width::F32, &[("a", vec![2, 2], &[1.0, 2.0, 3.0, 4.0]), ("b", vec![1], &[5.0])]).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("a").unwrap().shape(), [2, 2]);
        assert_eq!(f32_tensor(Path::new("x"), &file, "b", 1).unwrap(), [5.0]);
        let wrong = f32_tensor(Path::new("x"), &file, "a", 5).unwrap_err();
        assert_eq!(wrong.to_string(), "x: tensor a: expected 5 elements of F32, found 4 elements of F32");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }
}
