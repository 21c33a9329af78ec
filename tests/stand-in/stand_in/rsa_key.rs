//! The RSA key of the stand-in's service accounts.
//!
//! A key file must hold a real private key, and a repository must not, so one is made at the first need and shared
//! by every account of the process: generation takes a moment even with an optimised number library. The DER is
//! written by hand (RFC 8017 A.1.2 inside RFC 5208) because *ring* signs and verifies but makes no RSA keys.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use num_bigint_dig::traits::ModInverse;
use num_bigint_dig::{BigUint, RandPrime};
use ring::signature::{KeyPair, RsaKeyPair};

pub(super) struct RsaKey {
    /// PKCS #8 in PEM, as Google's key files carry it.
    pub(super) pem: String,
    /// `RSAPublicKey` in DER, as *ring* verifies with it.
    pub(super) public: Vec<u8>,
}

/// The key of this process.
pub(super) fn shared() -> &'static RsaKey {
    static KEY: OnceLock<RsaKey> = OnceLock::new();
    KEY.get_or_init(generate)
}

fn generate() -> RsaKey {
    let pkcs8 = loop {
        if let Some(pkcs8) = attempt() {
            break pkcs8;
        }
    };
    let pair = RsaKeyPair::from_pkcs8(&pkcs8).expect("ring accepts a key made as it wants them");
    RsaKey { pem: pem(&pkcs8), public: pair.public_key().as_ref().to_vec() }
}

/// `None` in the rare case that the primes are equal or that e divides p − 1 or q − 1.
fn attempt() -> Option<Vec<u8>> {
    let mut random = rand::thread_rng();
    // Two primes of 1024 bits with both top bits set give a modulus of exactly 2048 bits.
    let (first, second) = (random.gen_prime(1024), random.gen_prime(1024));
    if first == second {
        return None;
    }
    // ring wants p > q.
    let (p, q) = if first > second { (first, second) } else { (second, first) };
    let one = BigUint::from(1_u8);
    let e = BigUint::from(65_537_u32);
    let (p1, q1) = (&p - &one, &q - &one);
    let d = e.clone().mod_inverse(&p1 * &q1)?.to_biguint()?;
    let q_inverse = q.clone().mod_inverse(&p)?.to_biguint()?;
    let integers = [BigUint::from(0_u8), &p * &q, e, d.clone(), p, q, &d % &p1, &d % &q1, q_inverse];
    let private_key = sequence(&integers.iter().flat_map(integer).collect::<Vec<u8>>());

    let mut pkcs8 = integer(&BigUint::from(0_u8));
    pkcs8.extend_from_slice(RSA_ENCRYPTION);
    pkcs8.extend(tagged(0x04, &private_key));
    Some(sequence(&pkcs8))
}

fn integer(value: &BigUint) -> Vec<u8> {
    let mut bytes = value.to_bytes_be();
    // DER integers are signed: a leading one bit needs a zero byte before it.
    if bytes.first().is_none_or(|first| first & 0x80 != 0) {
        bytes.insert(0, 0);
    }
    tagged(0x02, &bytes)
}

fn sequence(content: &[u8]) -> Vec<u8> {
    tagged(0x30, content)
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    match significant.as_slice() {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).expect("a length has at most eight bytes"));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END PRIVATE KEY-----\n");
    out
}

/// `AlgorithmIdentifier { rsaEncryption, NULL }` in DER.
const RSA_ENCRYPTION: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
