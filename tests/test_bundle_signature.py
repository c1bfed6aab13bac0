"""Signatures of bundles, in the formats of minisign, and whose bundles are used."""

import base64
import hashlib
import re
import shutil
import stat
import subprocess
import threading

import pytest
import torch
from isocenter.bundle import trust
from isocenter.bundle.folder import Bundle
from isocenter.bundle.minisign import PublicKey, SecretKey, Signature, SignatureError
from isocenter.bundle.trust import Trust, host_key
from isocenter.commands.cli import app
from isocenter.engine.commission import commission
from isocenter.engine.device import Shelf
from isocenter.service.settings import Settings
from typer.testing import CliRunner

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def recover_x(y, sign):
    xx = (y * y - 1) * pow(D * y * y + 1, -1, P)
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return P - x if x % 2 != sign else x


BASE = (recover_x(4 * pow(5, -1, P) % P, 0), 4 * pow(5, -1, P) % P)


def add(a, b):
    product = D * a[0] * b[0] * a[1] * b[1]
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P)
    return x % P, y % P


def times(number, point):
    result = (0, 1)
    while number:
        if number & 1:
            result = add(result, point)
        point = add(point, point)
        number >>= 1
    return result


def packed(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


class Ed25519:
    """RFC 8032 in a few lines: slow, and nobody else's code."""

    def __init__(self, seed):
        digest = hashlib.sha512(seed).digest()
        self.scalar = int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254
        self.prefix = digest[32:]
        self.public = packed(times(self.scalar, BASE))

    def sign(self, message):
        r = int.from_bytes(hashlib.sha512(self.prefix + message).digest(), "little") % ORDER
        start = packed(times(r, BASE))
        h = int.from_bytes(hashlib.sha512(start + self.public + message).digest(), "little") % ORDER
        return start + ((r + h * self.scalar) % ORDER).to_bytes(32, "little")


SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
NUMBER = bytes(range(8))
MESSAGE = b"name: sense\n"


def signature_of(message, algorithm=b"ED", comment="timestamp:1\tfile:model.yaml\thashed", seed=SEED):
    """A signature as minisign writes it: ``Ed`` signs the message, ``ED`` its hash by BLAKE2b."""
    signer = Ed25519(seed)
    value = signer.sign(hashlib.blake2b(message).digest() if algorithm == b"ED" else message)
    lines = (
        "untrusted comment: signature from minisign secret key",
        base64.b64encode(algorithm + NUMBER + value).decode(),
        f"trusted comment: {comment}",
        base64.b64encode(signer.sign(value + comment.encode())).decode(),
    )
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture
def key():
    return PublicKey(NUMBER, Ed25519(SEED).public)


class TestMinisign:
    def test_the_test_s_own_ed25519_is_that_of_the_standard(self):
        seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        assert Ed25519(seed).public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        expected = (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        )
        assert Ed25519(seed).sign(b"").hex() == expected

    @pytest.mark.parametrize("algorithm", [b"Ed", b"ED"])
    def test_signatures_of_both_kinds_are_verified(self, key, algorithm):
        signature = Signature.parse(signature_of(MESSAGE, algorithm))
        key.verify(MESSAGE, signature)
        assert signature.signer == key.__str__() == "0706050403020100"
        with pytest.raises(SignatureError, match="not that of this manifest"):
            key.verify(MESSAGE + b" ", signature)

    def test_windows_line_ends_do_not_matter(self, key):
        key.verify(MESSAGE, Signature.parse(signature_of(MESSAGE).replace(b"\n", b"\r\n")))

    def test_the_trusted_comment_is_signed_as_well(self, key):
        forged = signature_of(MESSAGE).replace(b"timestamp:1", b"timestamp:2")
        with pytest.raises(SignatureError, match="not that of this manifest"):
            key.verify(MESSAGE, Signature.parse(forged))

    def test_another_key_with_the_same_number_does_not_do(self, key):
        with pytest.raises(SignatureError, match="not that of this manifest"):
            key.verify(MESSAGE, Signature.parse(signature_of(MESSAGE, seed=bytes(32))))

    @pytest.mark.parametrize(
        "content",
        [b"", b"\n" * 3, b"\xff" * 50, b"a\nb\nc\nd", signature_of(MESSAGE)[:-20], signature_of(MESSAGE, b"XX")],
    )
    def test_what_is_no_signature_is_said_to_be_none(self, content):
        with pytest.raises(SignatureError, match="no signature of minisign"):
            Signature.parse(content)

    def test_what_is_signed_here_is_what_the_standard_signs(self):
        secret = SecretKey(NUMBER, SEED)
        signed = Signature.parse(secret.sign(MESSAGE, "a comment").encode())
        expected = Signature.parse(signature_of(MESSAGE, comment="a comment"))
        assert signed == expected
        assert secret.public.key == Ed25519(SEED).public

    def test_a_key_is_read_as_it_was_written_and_is_nobody_else_s(self, tmp_path):
        secret = SecretKey.generate()
        secret.write(tmp_path / "key")
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
        again = SecretKey.read(tmp_path / "key")
        assert (again.number, again.seed) == (secret.number, secret.seed)
        assert secret.seed.hex() not in repr(secret)
        with pytest.raises(SignatureError, match="cannot be written"):
            secret.write(tmp_path / "key")
        assert PublicKey.parse(secret.public.line()) == secret.public
        assert PublicKey.parse(f"untrusted comment: x\n{secret.public.line()}\n") == secret.public

    @pytest.mark.parametrize("how", ["missing", "empty", "rubbish", "damaged", "password"])
    def test_a_key_that_cannot_be_used_is_told_from_others(self, tmp_path, how):
        path = tmp_path / "key"
        SecretKey.generate().write(path)
        comment, line = path.read_text().splitlines()
        content = bytearray(base64.b64decode(line))
        if how == "damaged":
            content[70] ^= 1
        elif how == "password":
            content[2:4] = b"Sc"
        path.write_text(f"{comment}\n{base64.b64encode(content).decode()}\n")
        if how == "missing":
            path.unlink()
        elif how in ("empty", "rubbish"):
            path.write_text("" if how == "empty" else "x y z")
        reasons = {"missing": "cannot be read", "damaged": "is damaged", "password": "protected by a password"}
        with pytest.raises(SignatureError, match=reasons.get(how, "no secret key of minisign")):
            SecretKey.read(path)

    @pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed")
    def test_minisign_itself_agrees(self, tmp_path):
        def run(*command):
            return subprocess.run(["minisign", *command], cwd=tmp_path, capture_output=True, text=True)

        (tmp_path / "model.yaml").write_bytes(MESSAGE)
        assert run("-G", "-W", "-p", "a.pub", "-s", "a.key").returncode == 0
        public = PublicKey.parse((tmp_path / "a.pub").read_text())
        assert str(public).lstrip("0") in (tmp_path / "a.pub").read_text()  # minisign leaves out zeros in front
        for kind in ((), ("-l",)):
            assert run("-S", *kind, "-s", "a.key", "-m", "model.yaml").returncode == 0
            public.verify(MESSAGE, Signature.parse((tmp_path / "model.yaml.minisig").read_bytes()))
        secret = SecretKey.read(tmp_path / "a.key")
        assert secret.public == public
        (tmp_path / "model.yaml.minisig").write_text(secret.sign(MESSAGE))
        assert "verified" in run("-V", "-p", "a.pub", "-m", "model.yaml").stdout
        own = SecretKey.generate()
        own.write(tmp_path / "b.key")
        assert run("-S", "-s", "b.key", "-m", "model.yaml").returncode == 0
        own.public.verify(MESSAGE, Signature.parse((tmp_path / "model.yaml.minisig").read_bytes()))


@pytest.fixture
def copy(bundles, tmp_path):
    folder = tmp_path / "bundles" / "rss"
    folder.mkdir(parents=True)
    for name in ("model.ts", "model.yaml", "probe.npz"):
        (folder / name).write_bytes((bundles / "rss" / name).read_bytes())
    return folder


@pytest.fixture
def sign(copy):
    def write(secret):
        (copy / "model.yaml.minisig").write_text(secret.sign((copy / "model.yaml").read_bytes()))

    return write


class TestTrust:
    @pytest.fixture
    def secret(self):
        return SecretKey.generate()

    def test_without_keys_everybody_s_bundles_are_used(self, copy, sign, secret):
        assert Bundle.open(copy).signer is None
        sign(secret)
        assert Bundle.open(copy).signer is None

    def test_with_keys_only_those_that_they_signed(self, copy, sign, secret):
        keys = Trust((SecretKey.generate().public, secret.public))
        with pytest.raises(SignatureError, match=f"bundle 'rss': it is not signed; accepted: key .*{secret.public}"):
            Bundle.open(copy, keys)
        sign(secret)
        assert Bundle.open(copy, keys).signer == secret.public
        other = SecretKey.generate()
        sign(other)
        with pytest.raises(SignatureError, match=f"it is signed by key {other.public}; accepted"):
            Bundle.open(copy, keys)

    def test_this_host_s_own_are_used_as_well(self, copy, sign, secret):
        sign(secret)
        assert Bundle.open(copy, Trust((SecretKey.generate().public,), secret.public)).signer == secret.public

    @pytest.mark.parametrize("needed", [True, False])
    def test_a_manifest_that_was_changed_is_refused_even_where_none_need_be_signed(self, copy, sign, secret, needed):
        sign(secret)
        with (copy / "model.yaml").open("a") as file:
            file.write("# changed\n")
        keys = Trust((secret.public,)) if needed else Trust((), secret.public)
        with pytest.raises(SignatureError, match="is not that of this manifest"):
            Bundle.open(copy, keys)

    def test_the_signature_of_another_bundle_does_not_do(self, copy, bundles, secret):
        keys = Trust((secret.public,))
        (copy / "model.yaml.minisig").write_text(secret.sign((bundles / "sense" / "model.yaml").read_bytes()))
        with pytest.raises(SignatureError, match="is not that of this manifest"):
            Bundle.open(copy, keys)

    def test_a_shelf_refuses_one_and_serves_the_others(self, copy, bundles, sign, secret):
        sign(secret)
        shutil.copytree(bundles / "sense", copy.parent / "sense")
        shelf = Shelf([copy.parent], Trust((secret.public,)))
        assert shelf.open("rss").signer == secret.public
        with pytest.raises(SignatureError, match="bundle 'sense': it is not signed"):
            shelf.open("sense")

    def test_keys_of_settings_are_lines_or_files(self, tmp_path, secret):
        path = tmp_path / "lab.pub"
        path.write_text(f"untrusted comment: ours\n{secret.public.line()}\n")
        for key in (str(path), secret.public.line()):
            assert Trust.of(tmp_path, Settings(keys=(key,)).keys).keys == (secret.public,)
        for key in ("RWabc", str(tmp_path / "none.pub"), ""):
            with pytest.raises(SignatureError, match="is no public key of minisign"):
                Trust.of(tmp_path, (key,))

    def test_the_host_s_key_is_one_whoever_makes_it_first(self, tmp_path):
        found = []
        threads = [threading.Thread(target=lambda: found.append(host_key(tmp_path).seed)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1
        folder = tmp_path / "keys"
        assert [path.name for path in folder.iterdir()] == ["host.key"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "host.key").stat().st_mode) == 0o600
        assert Trust.of(tmp_path).own == host_key(tmp_path).public

    def test_machine_code_is_loaded_only_where_its_maker_is_known(self, copy, sign, secret, caplog):
        manifest = (copy / "model.yaml").read_text()
        (copy / "model.pt2").write_bytes(b"machine code")
        digest = hashlib.sha256(b"machine code").hexdigest()
        (copy / "model.yaml").write_text(manifest.replace("files:\n", f"files:\n  model.pt2: {digest}\n"))
        assert list(commission(Bundle.open(copy), torch.device("cpu"))) == ["torchscript"]
        assert "aoti: model.pt2 is machine code, and no key that is trusted here has signed the bundle" in caplog.text
        sign(secret)
        caplog.clear()
        signed = Bundle.open(copy, Trust((), secret.public))
        assert list(commission(signed, torch.device("cpu"))) == ["torchscript"]
        assert "aoti: it cannot be run here" in caplog.text or "aoti: model.pt2 cannot be loaded here" in caplog.text


class TestCommands:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ISOCENTER_HOME", str(tmp_path / "home"))

    def run(self, *arguments, status=0):
        result = CliRunner().invoke(app, ["bundle", *map(str, arguments)])
        assert result.exit_code == status, result.output
        return result.output

    def test_keys_are_made_bundles_are_signed_and_shown(self, copy, tmp_path):
        assert "not signed" in self.run("show", copy)
        made = self.run("keygen", "-o", tmp_path / "lab.key")
        line = re.search(r"keys: \[(RW\S+)\]", made)[1]
        assert PublicKey.parse((tmp_path / "lab.key.pub").read_text()).line() == line
        number = str(PublicKey.parse(line))
        assert f"bundle rss is signed by key {number}" in self.run("sign", copy, "--key", tmp_path / "lab.key")
        assert f"signed by key {number}, which is not known here" in self.run("show", copy)
        config = tmp_path / "isocenter.yaml"
        config.write_text(f"keys: [{line}]\nbundles: [{copy.parent}]\n")
        assert f"signed by key {number}, which is trusted here" in self.run("show", copy, "--config", config)
        assert "passed" in self.run("verify", copy, "--config", config)
        assert re.search(r"^rss +not tried +\d+\.\d MB", self.run("list", "--config", config), re.M)
        (copy / "model.yaml.minisig").unlink()
        assert "it is not signed" in self.run("verify", copy, "--config", config, status=2)
        assert "cannot be used: bundle 'rss': it is not signed" in self.run("list", "--config", config)
        assert "cannot be written" in self.run("keygen", "-o", tmp_path / "lab.key", status=2)

    def test_a_damaged_bundle_is_not_signed(self, copy, tmp_path):
        self.run("keygen", "-o", tmp_path / "lab.key")
        (copy / "unlisted").write_text("")
        assert "does not list it" in self.run("sign", copy, "--key", tmp_path / "lab.key", status=2)
        assert not (copy / "model.yaml.minisig").exists()


def test_a_host_of_bundles_without_keys_makes_none(tmp_path):
    assert Trust.of(tmp_path) == trust.EVERYBODY
    assert not (tmp_path / "keys").exists()
