"""An Active Directory domain of Samba, and nodes that are its members: configuration files and commands. No I/O.

Each node has a machine account under its own name. The public name of the service, under which clients ask for Kerberos
tickets, belongs to a separate account, whose key every node has in its keytab (docs/services.md).
"""

from __future__ import annotations

from collections.abc import Mapping

REALM = "LAB.EXAMPLE"
DNS_DOMAIN = REALM.lower()
WORKGROUP = "LAB"
#: The domain controller's host name.
CONTROLLER = "dc"
ADMINISTRATOR = "Administrator"
PASSWORD = "Passw0rd-of-the-lab"
_LOGIN = f"{ADMINISTRATOR}%'{PASSWORD}'"
USER = "alice"
#: The public name of the service: a name in DNS with all public addresses.
SERVICE = "files"
#: The account of that name.
SERVICE_ACCOUNT = "files-cluster"
SHARE = "files"

#: Where the nodes' copy of the key comes from, on the domain controller, and where it is on a node.
EXPORTED_KEYTAB = "/var/lib/samba/files.keytab"
KEYTAB = "/etc/samba/files.keytab"

#: What the domain controller does not run: replication, and what finds out anew what DNS should say.
_SERVICES = "-wrepl -drepl -kcc -dnsupdate -ntp_signd"

# A domain controller that has just started refuses some requests, without a message.
_AGAIN = 'again() { for try in 1 2 3 4 5 6; do "$@" && return; sleep 5; done; echo "failed: $*" >&2; return 1; }'

_MEMBER = """\
[global]
    workgroup = {workgroup}
    realm = {realm}
    security = ads
    # With "secrets and keytab" smbd accepts tickets for its own names only.
    kerberos method = dedicated keytab
    dedicated keytab file = {keytab}
    # The same domain user has the same uid on every node.
    idmap config * : backend = tdb
    idmap config * : range = 3000-7999
    idmap config {workgroup} : backend = rid
    idmap config {workgroup} : range = 10000-999999
    disable netbios = yes
    smb ports = 445
    load printers = no
    disable spoolss = yes
[{share}]
    path = {shared}
    read only = no
"""

_CLIENT = """\
[global]
    workgroup = {workgroup}
    realm = {realm}
"""

_KRB5 = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = true
    dns_lookup_realm = false
    rdns = false
"""

_NSSWITCH = """\
passwd: files systemd winbind
group: files systemd winbind
hosts: files dns
"""


def name(host: str) -> str:
    """The full name of a host of the domain."""
    return f"{host}.{DNS_DOMAIN}"


def files(controller: str, hosts: Mapping[str, str], smb_conf: str) -> dict[str, str]:
    """Path → text on every host. ``controller``: its address. ``hosts``: name without domain → address, for /etc/hosts;
    the domain controller is added."""
    lines = ["127.0.0.1 localhost"]
    lines += [f"{address} {name(host)} {host}" for host, address in {CONTROLLER: controller, **hosts}.items()]
    return {
        "/etc/hosts": "\n".join(lines) + "\n",
        "/etc/resolv.conf": f"search {DNS_DOMAIN}\nnameserver {controller}\n",
        "/etc/krb5.conf": _KRB5.format(realm=REALM),
        "/etc/nsswitch.conf": _NSSWITCH,
        "/etc/samba/smb.conf": smb_conf,
    }


def member_configuration(shared: str) -> str:
    """smb.conf of a node. ``shared``: the directory of the share."""
    return _MEMBER.format(workgroup=WORKGROUP, realm=REALM, keytab=KEYTAB, share=SHARE, shared=shared)


def client_configuration() -> str:
    """smb.conf of a client."""
    return _CLIENT.format(workgroup=WORKGROUP, realm=REALM)


def provision(address: str) -> str:
    """Shell commands that make the domain, on its controller. There must be no smb.conf."""
    return (
        f"samba-tool domain provision --realm={REALM} --domain={WORKGROUP} --server-role=dc "
        f"--dns-backend=SAMBA_INTERNAL --host-name={CONTROLLER} --host-ip={address} --adminpass='{PASSWORD}'\n"
        # It takes the machine's own name server, which may be this one: a loop. And nothing for other domain
        # controllers: there is one.
        f"sed -i -e '/dns forwarder/d' -e '/\\[global\\]/a server services = {_SERVICES}' /etc/samba/smb.conf\n"
        # Whatever its age, this domain works.
        "samba-tool domain passwordsettings set --max-pwd-age=0\n"
    )


def answers() -> str:
    """A shell command that succeeds once the domain controller answers (its DNS server last); on it, or on a client."""
    own = f"samba-tool dns query {CONTROLLER} {DNS_DOMAIN} {CONTROLLER} A -U {_LOGIN}"
    return f"net ads info && {own}"


def prepare(public: tuple[str, ...]) -> str:
    """Shell commands on the running domain controller: a user, the service's account and key, and its name in DNS with
    these IPv4 addresses."""
    service = name(SERVICE)
    lines = [
        _AGAIN,
        f"samba-tool user create {USER} '{PASSWORD}'",
        f"samba-tool user create {SERVICE_ACCOUNT} --random-password",
        f"samba-tool user setexpiry {SERVICE_ACCOUNT} --noexpiry",
        f"samba-tool spn add cifs/{service} {SERVICE_ACCOUNT}",
        # AES keys: without this the domain gives out tickets with RC4 for this account.
        f"again net ads enctypes set {SERVICE_ACCOUNT} 24 -U {_LOGIN}",
        f"samba-tool domain exportkeytab {EXPORTED_KEYTAB} --principal=cifs/{service}",
    ]
    for address in public:
        lines.append(f"again samba-tool dns add {CONTROLLER} {DNS_DOMAIN} {SERVICE} A {address} -U {_LOGIN}")
    return "\n".join(lines) + "\n"


def join() -> str:
    """Shell commands that make a node a member, after its files and its copy of the service's keytab are there."""
    return f"{_AGAIN}\nagain net ads join --no-dns-updates -U {_LOGIN}\n"


def connect(server: str, command: str, *, kerberos: bool) -> list[str]:
    """The command line of an SMB client that carries out ``command`` (smbclient(1)) in the share as :data:`USER`."""
    return [
        *("smbclient", f"//{server}/{SHARE}", f"--use-kerberos={'required' if kerberos else 'off'}"),
        *("-U", f"{WORKGROUP}\\{USER}%{PASSWORD}" if not kerberos else f"{USER}@{REALM}%{PASSWORD}"),
        *("-c", command),
    ]
