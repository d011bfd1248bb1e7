"""Which names a tree of processes looks up and which addresses it opens: what they ask of libc, their libraries in C included."""

import shutil
import subprocess
import sys
from pathlib import Path

SHIM = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void note(const char *what, const char *whom) {
    FILE *log = fopen(getenv("NETWORK_LOG"), "a");
    if (log) { fprintf(log, "%s %s\n", what, whom ? whom : ""); fclose(log); }
}
static int is_here(const char *host) {
    unsigned char address[16];
    if (!host || !*host || !strcmp(host, "localhost")) return 1;
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}
typedef int (*GetAddrInfo)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    if (!is_here(host)) note("look-up", host);
    return ((GetAddrInfo)dlsym(RTLD_NEXT, "getaddrinfo"))(host, service, hints, found);
}
struct hostent *gethostbyname(const char *host) {
    if (!is_here(host)) note("look-up", host);
    return ((struct hostent *(*)(const char *))dlsym(RTLD_NEXT, "gethostbyname"))(host);
}
int connect(int socket, const struct sockaddr *address, socklen_t length) {
    char text[INET6_ADDRSTRLEN] = "";
    if (address->sa_family == AF_INET) {
        const struct in_addr *to = &((const struct sockaddr_in *)address)->sin_addr;
        if (ntohl(to->s_addr) >> 24 != 127) note("connection", inet_ntop(AF_INET, to, text, sizeof text));
    } else if (address->sa_family == AF_INET6) {
        const struct in6_addr *to = &((const struct sockaddr_in6 *)address)->sin6_addr;
        if (!IN6_IS_ADDR_LOOPBACK(to)) note("connection", inet_ntop(AF_INET6, to, text, sizeof text));
    }
    return ((int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect"))(socket, address, length);
}
"""


class NetworkWatch:
    """Processes with its `environment` write down what they look up and connect to; this machine itself does not count."""

    def __init__(self, library: Path, log: Path):
        self.log = log
        self.environment = {"LD_PRELOAD": str(library), "NETWORK_LOG": str(log)}

    def seen(self) -> list[str]:
        """`look-up NAME` and `connection ADDRESS`, in their order."""
        return self.log.read_text().splitlines() if self.log.exists() else []


def network_watch(folder: Path) -> NetworkWatch | None:
    """A watch whose files are in the folder; None where there is no C compiler that can make it, or no Linux."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    source, library = folder / "network.c", folder / "network.so"
    source.write_text(SHIM)
    made = subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], capture_output=True)
    return None if made.returncode else NetworkWatch(library, folder / "network.log")
