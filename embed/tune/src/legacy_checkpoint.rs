//! Reads PyTorch checkpoints in the format before version 1.6, which candle cannot read: four
//! consecutive pickles (a magic number, the version, sizes of integers, the tensors), then the keys
//! of the storages and their bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use candle_core::pickle::{Object, Stack};
use candle_core::{DType, Device, Result, Tensor, bail};

/// First bytes of every such file: the pickled magic number, then the pickled version 1001.
const START: [u8; 21] = [
    0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e, 0x80, 0x02, 0x4d, 0xe9,
    0x03, 0x2e,
];

/// Whether the file at `path` has this format.
///
/// # Errors
/// A file that cannot be read.
pub fn is_legacy(path: &Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(START.len() as u64).read_to_end(&mut start)?;
    Ok(start == START)
}

/// Reads every tensor of the file and its name, on the CPU.
///
/// # Errors
/// A truncated file, or a file that holds anything but named tensors.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut start = [0; START.len()];
    file.read_exact(&mut start)?;
    pickle(&mut file)?;
    let tensors = named_tensors(pickle(&mut file)?)?;
    let Object::List(keys) = pickle(&mut file)? else { bail!("no list of storages") };
    let mut kinds = HashMap::new();
    tensors.iter().for_each(|(_, tensor)| {
        kinds.insert(tensor.storage.clone(), tensor.dtype);
    });
    let mut storages = HashMap::new();
    for key in keys {
        let Object::Unicode(key) = key else { bail!("a storage without a name") };
        let Some(dtype) = kinds.get(&key) else { bail!("no tensor uses storage {key}") };
        let mut count = [0; 8];
        file.read_exact(&mut count)?;
        let count = i64::from_le_bytes(count);
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(dtype.size_in_bytes()));
        let Some(length) = length else { bail!("a storage of {count} numbers") };
        let mut bytes = Vec::new();
        (&mut file).take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() != length {
            bail!("storage {key} is cut short: {} of {length} bytes", bytes.len());
        }
        storages.insert(key, bytes);
    }
    tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.read(&storages)?))).collect()
}

fn pickle(file: &mut impl BufRead) -> Result<Object> {
    let mut stack = Stack::empty();
    stack.read_loop(file)?;
    stack.finalize()
}

/// Location of a tensor's numbers.
struct StoredTensor {
    storage: String,
    dtype: DType,
    /// Index of the first number in the storage.
    offset: usize,
    shape: Vec<usize>,
    /// Distance between neighbouring elements in each dimension, in numbers.
    strides: Vec<usize>,
}

impl StoredTensor {
    fn read(&self, storages: &HashMap<String, Vec<u8>>) -> Result<Tensor> {
        let Some(bytes) = storages.get(&self.storage) else { bail!("storage {} is not in the file", self.storage) };
        let width = self.dtype.size_in_bytes();
        let numbers: usize = self.shape.iter().product();
        let mut own = Vec::with_capacity(numbers * width);
        for number in 0..numbers {
            // Index in the storage of element `number`, row-major.
            let (mut rest, mut place) = (number, self.offset);
            for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
                place += rest % size * stride;
                rest /= size;
            }
            match bytes.get(place * width..(place + 1) * width) {
                Some(element) => own.extend_from_slice(element),
                None => bail!("a tensor {:?} reaches beyond its storage", self.shape),
            }
        }
        Tensor::from_raw_buffer(&own, self.dtype, &self.shape, &Device::Cpu)
    }
}

/// Reads the tensors of a dictionary, which may be wrapped (`OrderedDict`).
fn named_tensors(object: Object) -> Result<Vec<(String, StoredTensor)>> {
    let items = match object {
        Object::Dict(items) => items,
        Object::Build { callable, .. } => return named_tensors(*callable),
        Object::Reduce { args, .. } => return named_tensors(*args),
        _ => bail!("no dictionary of tensors"),
    };
    let mut tensors = Vec::new();
    for (name, value) in items {
        let (Object::Unicode(name), Object::Reduce { args, .. }) = (name, value) else { continue };
        tensors.push((name, stored(*args)?));
    }
    Ok(tensors)
}

/// Reads the arguments of `_rebuild_tensor_v2`: storage, offset, shape, strides and more.
fn stored(args: Object) -> Result<StoredTensor> {
    let Object::Tuple(args) = args else { bail!("a tensor without arguments") };
    let mut args = args.into_iter();
    let (Some(Object::PersistentLoad(id)), Some(offset), Some(shape), Some(strides)) =
        (args.next(), args.next(), args.next(), args.next())
    else {
        bail!("a tensor without a storage")
    };
    let Object::Tuple(id) = *id else { bail!("a storage without a name") };
    let (Some(Object::Class { class_name, .. }), Some(Object::Unicode(storage))) = (id.get(1), id.get(2)) else {
        bail!("a storage without a type and a name")
    };
    let dtype = match class_name.as_str() {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "LongStorage" => DType::I64,
        "ByteStorage" => DType::U8,
        other => bail!("numbers of the type {other} are not read"),
    };
    let storage = storage.clone();
    Ok(StoredTensor { storage, dtype, offset: number(&offset)?, shape: numbers(shape)?, strides: numbers(strides)? })
}

fn number(object: &Object) -> Result<usize> {
    let found = match object {
        Object::Int(n) => usize::try_from(*n).ok(),
        Object::Long(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    match found {
        Some(n) => Ok(n),
        None => bail!("{object:?} is no size"),
    }
}

fn numbers(object: Object) -> Result<Vec<usize>> {
    match object {
        Object::Tuple(all) => all.iter().map(number).collect(),
        _ => bail!("no list of sizes"),
    }
}

#[cfg(test)]
mod tests {
    //! `tests/golden/legacy/legacy.pth` was written by `make.py` beside it.

    use std::path::PathBuf;

    use super::*;

    fn golden() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/legacy/legacy.pth")
    }

    #[test]
    fn tensors_views_and_integers_are_read() {
        assert!(is_legacy(&golden()).expect("readable"));
        let all: HashMap<String, Tensor> = read(&golden()).expect("sound").into_iter().collect();
        let numbers = |name: &str| -> Vec<f32> {
            all[name].to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()).expect(name)
        };
        assert_eq!((all["weight"].dims(), numbers("weight")), (&[2, 3][..], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.5]));
        assert_eq!((all["turned"].dims(), numbers("turned")), (&[3, 2][..], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.5]));
        assert_eq!(numbers("part"), [5.0, 6.5]);
        assert_eq!((all["count"].dims(), numbers("count")), (&[][..], vec![7.0]));
        // `weights::read` reads it too, but leaves integers out.
        assert_eq!(crate::weights::read(&golden()).expect("sound").len(), 3);
    }

    #[test]
    fn a_file_cut_short_anywhere_is_an_error() {
        let whole = std::fs::read(golden()).expect("there");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("short.pth");
        for length in (START.len()..whole.len()).step_by(7) {
            std::fs::write(&path, &whole[..length]).expect("written");
            assert!(read(&path).is_err(), "{length} of {} bytes", whole.len());
        }
        std::fs::write(&path, b"PK\x03\x04").expect("written");
        assert!(!is_legacy(&path).expect("readable"));
    }
}
