//! The keys of Initial packets, which are no secret: both sides', and everybody's who sees the client's first packet
//! (RFC 9001, section 5.2).

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes_gcm::Aes128Gcm;
use aes_gcm::aead::AeadInOut;
use hkdf::Hkdf;
use sha2::Sha256;

use super::version::Version;

/// Bytes that protection adds to a payload.
pub const TAG_LEN: usize = 16;
/// Ciphertext from which a header is protected, and how far behind the beginning of the packet's number it begins (section 5.4.2).
const SAMPLE_LEN: usize = 16;
const SAMPLE_AT: usize = 4;

/// The keys of one side's Initial packets.
pub struct Keys {
    payload: Aes128Gcm,
    iv: [u8; 12],
    header: Aes128,
}

impl Keys {
    /// Those of the client and of the server, where the client called the server by `id` in its first packet.
    pub fn initial(version: &Version, id: &[u8]) -> [Self; 2] {
        let (_, initial) = Hkdf::<Sha256>::extract(Some(&version.salt), id);
        [b"client in", b"server in"].map(|label| Self::derive(version, &expand::<32>(&initial, label)))
    }

    fn derive(version: &Version, secret: &[u8; 32]) -> Self {
        let secret = Hkdf::<Sha256>::from_prk(secret).expect("as long as the hash");
        let [key, iv, header] = version.key_labels;
        Self {
            payload: Aes128Gcm::new(&expand::<16>(&secret, key).into()),
            iv: expand(&secret, iv),
            header: Aes128::new(&expand::<16>(&secret, header).into()),
        }
    }

    /// Protects `packet`, a long header of `header` bytes that ends with a number of `number_len` bytes, then the payload, then room
    /// for the tag: `TAG_LEN` bytes. Payload and number have at least 4 bytes together.
    pub fn seal(&self, packet: &mut [u8], header: usize, number: u32, number_len: usize) {
        let (head, rest) = packet.split_at_mut(header);
        let (payload, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        let sealed = self.payload.encrypt_inout_detached(&self.nonce(number).into(), head, payload.into());
        tag.copy_from_slice(&sealed.expect("far shorter than what the cipher takes"));
        let mask = self.mask(packet, header - number_len);
        packet[0] ^= mask[0] & 0x0f;
        let number = &mut packet[header - number_len..header];
        number.iter_mut().zip(&mask[1..]).for_each(|(byte, mask)| *byte ^= mask);
    }

    /// The payload of a `packet` whose number begins at `number_at`, and which ends where its length says; `None` where it is not
    /// what this side sent. The number is taken for a whole one, as it is in the first packets of a connection.
    pub fn open(&self, packet: &[u8], number_at: usize) -> Option<Vec<u8>> {
        packet.get(number_at + SAMPLE_AT..number_at + SAMPLE_AT + SAMPLE_LEN)?;
        let mut packet = packet.to_vec();
        let mask = self.mask(&packet, number_at);
        packet[0] ^= mask[0] & 0x0f;
        let header = number_at + 1 + usize::from(packet[0] & 3);
        let number = &mut packet[number_at..header];
        number.iter_mut().zip(&mask[1..]).for_each(|(byte, mask)| *byte ^= mask);
        let number = number.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let (head, rest) = packet.split_at_mut(header);
        let (payload, tag) = rest.split_at_mut(rest.len().checked_sub(TAG_LEN)?);
        let tag: [u8; TAG_LEN] = (&*tag).try_into().expect("split there");
        let nonce = self.nonce(number).into();
        self.payload.decrypt_inout_detached(&nonce, head, (&mut *payload).into(), &tag.into()).ok()?;
        Some(payload.to_vec())
    }

    /// The initialisation vector with the packet's number in it (section 5.3).
    fn nonce(&self, number: u32) -> [u8; 12] {
        let mut ret = self.iv;
        ret[8..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        ret
    }

    /// What hides the header (section 5.4.3).
    fn mask(&self, packet: &[u8], number_at: usize) -> [u8; SAMPLE_LEN] {
        let at = number_at + SAMPLE_AT;
        let mut block = [0; SAMPLE_LEN];
        block.copy_from_slice(&packet[at..at + SAMPLE_LEN]);
        let mut block = block.into();
        self.header.encrypt_block(&mut block);
        block.into()
    }
}

/// `N` bytes derived from `secret` (RFC 8446, section 7.1).
fn expand<const N: usize>(secret: &Hkdf<Sha256>, label: &[u8]) -> [u8; N] {
    let mut info = vec![0, N as u8, 6 + label.len() as u8];
    info.extend_from_slice(b"tls13 ");
    info.extend_from_slice(label);
    info.push(0);
    let mut ret = [0; N];
    secret.expand(&info, &mut ret).expect("at most 255 hashes");
    ret
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// RFC 9001, appendix A.3.
    #[test]
    fn the_server_s_packet_of_the_rfc_is_made_and_opened() {
        let version = Version::find(1).unwrap();
        let [client, server] = Keys::initial(version, &bytes("8394c8f03e515708"));
        let header = bytes("c1000000010008f067a5502a4262b50040750001");
        let payload = bytes(concat!(
            "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566dc5430b9a045a12",
            "00130100002e00330024001d00209d3c940d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a00",
            "2b00020304"
        ));
        let mut packet = [&header[..], &payload, &[0; TAG_LEN]].concat();
        server.seal(&mut packet, header.len(), 1, 2);
        let sealed = bytes(concat!(
            "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780b",
            "b38cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19",
            "fb84022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc42158407dd074ee"
        ));
        assert_eq!(packet, sealed);
        assert_eq!(server.open(&packet, header.len() - 2), Some(payload));
        assert_eq!(client.open(&packet, header.len() - 2), None);
        packet[100] ^= 1;
        assert_eq!(server.open(&packet, header.len() - 2), None);
        assert_eq!(server.open(&packet[..30], header.len() - 2), None);
    }
}
