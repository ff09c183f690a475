//! Tests of blobs.

use proptest::prelude::*;

use super::*;

/// The key 00 01 … 1f of the test vectors.
fn key() -> CryptKey {
    CryptKey::new(std::array::from_fn(|i| i as u8))
}

fn parse_hex(text: &str) -> DataBlob {
    DataBlob::parse(hex::decode(text).expect("hex").into()).expect("a blob")
}

/// A frame of one raw or run-length block, made by hand: magic, descriptor (no content size), window, block.
fn frame(window_descriptor: u8, blocks: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window_descriptor];
    frame.extend_from_slice(blocks);
    frame
}

fn zstd_blob(payload: &[u8]) -> DataBlob {
    let mut encoded = BlobKind::Zstd.magic().to_vec();
    encoded.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    encoded.extend_from_slice(payload);
    DataBlob::parse(encoded.into()).expect("a blob")
}

#[test]
fn vector_plain_blob_of_hello() {
    let blob = DataBlob::encode_plain(Bytes::from_static(b"hello")).expect("short");
    assert_eq!(
        hex::encode(blob.encoded()),
        "42ab3807be8370a186a6103668656c6c6f"
    );
    let csum = "9c5944aba3379b450612203cafb5bf60c2358103550b7f799d197f4668f169d5";
    assert_eq!(Digest::of(&blob.encoded()).to_string(), csum);
}

#[test]
fn vector_encrypted_blob_of_hello() {
    let text = concat!(
        "7b6785be222d4cf0",
        "784eea93",
        "000102030405060708090a0b0c0d0e0f",
        "0c84c431837297c0b19e77e5608162ea",
        "0f09cc1a56"
    );
    let iv = std::array::from_fn(|i| i as u8);
    let blob =
        DataBlob::encode(Bytes::from_static(b"hello"), true, Some(&key()), iv).expect("short");
    assert_eq!(hex::encode(blob.encoded()), text);
    let blob = parse_hex(text);
    assert_eq!(blob.kind(), BlobKind::Encrypted);
    assert_eq!(blob.verify_crc(), Ok(()));
    assert_eq!(
        blob.decode(5, Some(&key())),
        Ok(Bytes::from_static(b"hello"))
    );
    assert_eq!(blob.decode(5, None), Err(BlobError::KeyMissing));
    assert_eq!(
        blob.decode(4, Some(&key())),
        Err(BlobError::ContentsTooLong(4))
    );
    assert_eq!(
        blob.decode(5, Some(&CryptKey::new([0; 32]))),
        Err(BlobError::WrongKey)
    );
}

#[test]
fn a_blob_needs_its_whole_header() {
    let short = |kind: BlobKind, length: usize| {
        let mut encoded = kind.magic().to_vec();
        encoded.resize(length, 0);
        DataBlob::parse(encoded.into()).map(|blob| blob.kind())
    };
    assert_eq!(short(BlobKind::Plain, 11), Err(BlobError::TooShort(11)));
    assert_eq!(short(BlobKind::Plain, 12), Ok(BlobKind::Plain));
    assert_eq!(short(BlobKind::Encrypted, 43), Err(BlobError::TooShort(43)));
    assert_eq!(
        short(BlobKind::EncryptedZstd, 44),
        Ok(BlobKind::EncryptedZstd)
    );
    assert_eq!(
        short(BlobKind::Encrypted, CHUNK_ENCODED_BYTES_MAX),
        Ok(BlobKind::Encrypted)
    );
    let long = CHUNK_ENCODED_BYTES_MAX + 1;
    assert_eq!(
        short(BlobKind::Encrypted, long),
        Err(BlobError::TooLong(long))
    );
    assert_eq!(
        DataBlob::parse(Bytes::from_static(b"GET / HTTP/1.1")).map(|_| ()),
        Err(BlobError::UnknownMagic)
    );
    assert_eq!(
        DataBlob::parse(Bytes::new()).map(|_| ()),
        Err(BlobError::TooShort(0))
    );
}

#[test]
fn a_wrong_crc_is_reported_and_replaced_without_copying_the_payload() {
    let received = Bytes::from(hex::decode("42ab3807be8370a10000000068656c6c6f").expect("hex"));
    let blob = DataBlob::parse(received.clone()).expect("a blob");
    let mismatch = BlobError::CrcMismatch {
        stored: 0,
        computed: 0x3610_a686,
    };
    assert_eq!(blob.verify_crc(), Err(mismatch));
    let blob = blob.with_computed_crc();
    assert_eq!(blob.verify_crc(), Ok(()));
    assert_eq!(
        hex::encode(blob.encoded()),
        "42ab3807be8370a186a6103668656c6c6f"
    );
    let body = blob.to_body();
    assert_eq!(body.parts().len(), 2);
    assert_eq!(body.parts()[1].as_ptr(), received[12..].as_ptr());
}

#[test]
fn a_right_blob_goes_out_in_one_part_as_it_came() {
    let received = Bytes::from(hex::decode("42ab3807be8370a186a6103668656c6c6f").expect("hex"));
    let blob = DataBlob::parse(received.clone())
        .expect("a blob")
        .with_computed_crc();
    assert_eq!(blob.to_body().parts().len(), 1);
    assert_eq!(blob.encoded().as_ptr(), received.as_ptr());
    assert_eq!(blob.parts().1.as_ptr(), received[12..].as_ptr());
    assert_eq!(
        blob.decode(5, None).expect("plain").as_ptr(),
        received[12..].as_ptr()
    );
}

#[test]
fn encoding_plain_data_copies_nothing() {
    let data = Bytes::from(vec![7; 1000]);
    let blob = DataBlob::encode_plain(data.clone()).expect("short");
    assert_eq!(blob.to_body().parts()[1].as_ptr(), data.as_ptr());
}

#[test]
fn compression_is_kept_only_where_it_helps() {
    let encode = |data: &[u8]| {
        let blob = DataBlob::encode(Bytes::copy_from_slice(data), true, None, [0; 16]);
        blob.expect("short").kind()
    };
    assert_eq!(encode(&[0; 4096]), BlobKind::Zstd);
    assert_eq!(encode(b"hello"), BlobKind::Plain);
    assert_eq!(encode(b""), BlobKind::Plain);
    let too_long = DataBlob::encode_plain(vec![0; CHUNK_BYTES_MAX + 1].into());
    assert_eq!(
        too_long.map(|_| ()),
        Err(BlobError::ContentsTooLong(CHUNK_BYTES_MAX))
    );
}

#[test]
fn a_chunk_is_checked_against_digest_and_size() {
    let data = Bytes::from(vec![3; 300_000]);
    let (digest, other) = (Digest::of(&data), Digest::of(b"other"));
    for compress in [false, true] {
        let blob = DataBlob::encode(data.clone(), compress, None, [0; 16]).expect("short");
        assert_eq!(blob.kind().is_compressed(), compress);
        assert_eq!(blob.verify_chunk(&digest, Some(300_000)), Ok(()));
        assert_eq!(blob.verify_chunk(&digest, None), Ok(()));
        let mismatch = BlobError::DigestMismatch {
            expected: other,
            actual: digest,
        };
        assert_eq!(blob.verify_chunk(&other, None), Err(mismatch));
        let mismatch = BlobError::SizeMismatch {
            expected: 1,
            actual: 300_000,
        };
        assert_eq!(blob.verify_chunk(&digest, Some(1)), Err(mismatch));
    }
    let blob = DataBlob::encode(data, true, Some(&key()), [0; 16]).expect("short");
    assert_eq!(blob.verify_chunk(&other, Some(1)), Ok(()));
}

#[test]
fn a_bomb_is_refused_before_it_unfolds() {
    // A frame that says how much it holds is refused by its header alone.
    let bomb = zstd::bulk::compress(&vec![0; CHUNK_BYTES_MAX + 1], 1).expect("compresses");
    let blob = zstd_blob(&bomb);
    let too_long = BlobError::ContentsTooLong(CHUNK_BYTES_MAX);
    assert_eq!(blob.decode(CHUNK_BYTES_MAX, None), Err(too_long.clone()));
    assert_eq!(
        blob.verify_chunk(&Digest::of(b""), None),
        Err(too_long.clone())
    );
    // One that does not say is refused when it has gone too far: 200 run-length blocks of 128 KiB.
    let mut blocks = Vec::new();
    for left in (0..200_u32).rev() {
        let block = ((128 << 10) << 3) | (1 << 1) | u32::from(left == 0);
        blocks.extend_from_slice(&block.to_le_bytes()[..3]);
        blocks.push(0);
    }
    let blob = zstd_blob(&frame(0x58, &blocks));
    assert_eq!(blob.decode(CHUNK_BYTES_MAX, None), Err(too_long.clone()));
    assert_eq!(blob.verify_chunk(&Digest::of(b""), None), Err(too_long));
    assert_eq!(
        blob.decode(32 << 20, None).map(|data| data.len()),
        Ok(200 * (128 << 10))
    );
}

#[test]
fn a_window_larger_than_any_chunk_is_refused() {
    // Raw block of one byte in frames whose windows are 2^25 and 2^31 bytes.
    for log in [25, 31] {
        let blob = zstd_blob(&frame((log - 10) << 3, &[0x09, 0x00, 0x00, b'a']));
        let refused = blob.verify_chunk(&Digest::of(b"a"), None);
        assert!(matches!(refused, Err(BlobError::Zstd(_))), "{log}");
        let refused = blob.decode(10, None);
        assert!(matches!(refused, Err(BlobError::Zstd(_))), "{log}");
    }
    for log in [21, 24] {
        let blob = zstd_blob(&frame((log - 10) << 3, &[0x09, 0x00, 0x00, b'a']));
        assert_eq!(blob.verify_chunk(&Digest::of(b"a"), Some(1)), Ok(()));
    }
}

/// To unpack it in one go takes no window, but clients that read what is stored step by step have none so large.
#[test]
fn such_a_window_is_refused_in_a_frame_that_tells_its_length_too() {
    let zeros = vec![0; 256 << 10];
    // Two run-length blocks of 128 KiB.
    let blocks = [[0x02, 0x00, 0x10, 0x00], [0x03, 0x00, 0x10, 0x00]].concat();
    for (window, good) in [
        (14 << 3, true),
        (14 << 3 | 1, false),
        (15 << 3, false),
        (0x90, false),
        (0xff, false),
    ] {
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x80, window, 0x00, 0x00, 0x04, 0x00];
        let blob = zstd_blob(&[&header[..], &blocks].concat());
        let verified = blob.verify_chunk(&Digest::of(&zeros), None);
        let decoded = blob.decode(CHUNK_BYTES_MAX, None);
        assert_eq!(verified.is_ok(), good, "{window:#x}: {verified:?}");
        assert_eq!(decoded.is_ok_and(|data| data == zeros), good, "{window:#x}");
    }
}

#[test]
fn what_any_ordinary_level_makes_of_the_largest_chunk_is_read() {
    // A stream writer does not know the length, so the window is that of the level alone.
    let data = vec![7; CHUNK_BYTES_MAX];
    for level in [1, 19] {
        let frame = zstd::stream::encode_all(&data[..], level).expect("compresses");
        let verified = zstd_blob(&frame).verify_chunk(&Digest::of(&data), None);
        assert_eq!(verified, Ok(()), "{level}");
    }
}

#[test]
fn a_payload_is_exactly_one_frame() {
    let data = vec![1; 5000];
    let frame = zstd::bulk::compress(&data, 1).expect("compresses");
    let digest = Digest::of(&data);
    assert_eq!(zstd_blob(&frame).verify_chunk(&digest, Some(5000)), Ok(()));
    let twice = [&frame[..], &frame[..]].concat();
    let longer = [&frame[..], b"x"].concat();
    for payload in [
        &twice[..],
        &longer,
        &frame[..frame.len() - 1],
        b"",
        b"no frame",
    ] {
        let blob = zstd_blob(payload);
        assert!(matches!(
            blob.verify_chunk(&digest, None),
            Err(BlobError::Zstd(_))
        ));
        assert!(matches!(blob.decode(10_000, None), Err(BlobError::Zstd(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_kinds_come_back(
        data in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3000),
            (any::<u8>(), 0..400_000_usize).prop_map(|(byte, length)| vec![byte; length]),
        ],
        compress: bool,
        encrypt: bool,
        iv: [u8; 16],
    ) {
        let data = Bytes::from(data);
        let key = encrypt.then(key);
        let blob = DataBlob::encode(data.clone(), compress, key.as_ref(), iv).expect("short");
        prop_assert_eq!(blob.is_encrypted(), encrypt);
        prop_assert!(blob.encoded_len() <= data.len() + blob.header_len());
        let blob = DataBlob::parse(blob.encoded()).expect("what we encode is a blob");
        prop_assert_eq!(blob.verify_crc(), Ok(()));
        prop_assert_eq!(blob.decode(data.len(), key.as_ref()), Ok(data.clone()));
        prop_assert_eq!(blob.verify_chunk(&Digest::of(&data), Some(data.len() as u64)), Ok(()));
    }

    #[test]
    fn a_flipped_bit_never_goes_unnoticed(
        byte: u8, length in 1..5000_usize, compress: bool, encrypt: bool, at: prop::sample::Index, bit in 0..8_u8,
    ) {
        let data = Bytes::from(vec![byte; length]);
        let key = encrypt.then(key);
        let blob = DataBlob::encode(data.clone(), compress, key.as_ref(), [9; 16]).expect("short");
        let mut encoded = blob.encoded().to_vec();
        let at = at.index(encoded.len());
        encoded[at] ^= 1 << bit;
        let noticed = match DataBlob::parse(encoded.into()) {
            Err(_) => true,
            Ok(blob) => blob.verify_crc().is_err() || blob.decode(length, key.as_ref()) != Ok(data),
        };
        prop_assert!(noticed);
    }

    #[test]
    fn no_bytes_make_it_panic(
        kind in 0..4_usize, payload in prop::collection::vec(any::<u8>(), 0..200), framed: bool,
    ) {
        let mut encoded = BlobKind::ALL[kind].magic().to_vec();
        encoded.extend_from_slice(&[0; 4]);
        if framed {
            encoded.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        }
        encoded.extend_from_slice(&payload);
        if let Ok(blob) = DataBlob::parse(encoded.into()) {
            let _ = blob.decode(1 << 20, Some(&key()));
            let _ = blob.verify_chunk(&Digest::of(b""), None);
            prop_assert_eq!(blob.with_computed_crc().verify_crc(), Ok(()));
        }
        let _ = DataBlob::parse(payload.into());
    }
}
