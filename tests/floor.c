/*
 * The floor under `broker exec`: one request over a Unix socket and an execve, with nothing else. And the stopwatch:
 * from vfork to wait4, with the peak resident set that the kernel counted.
 *
 *   floor measure COMMAND ARG...          prints "NANOSECONDS PEAK_KIB EXIT"
 *   floor serve SOCKET COUNT              answers every request with COUNT variables
 *   floor exec SOCKET COMMAND ARG...      asks once, adds what comes to its environment, becomes the command
 *
 * The stopwatch's own resident set is the least peak it can show: a vforked child begins in its parent's memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void fail(const char *what) {
    perror(what);
    exit(125);
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int measure(char **argv) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    long long start = now();
    pid_t pid = vfork();
    if (pid == 0) {
        dup2(null, 0);
        dup2(null, 1);
        execvp(argv[0], argv);
        _exit(127);
    }
    int status;
    struct rusage used;
    if (pid < 0 || wait4(pid, &status, 0, &used) != pid) fail("wait4");
    printf("%lld %ld %d\n", now() - start, used.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 0;
}

static struct sockaddr_un address(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path) { errno = ENAMETOOLONG; fail(path); }
    strcpy(a.sun_path, path);
    return a;
}

static _Noreturn void serve(const char *path, int count) {
    struct sockaddr_un a = address(path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 64)) fail(path);
    size_t size = 0;
    char *answer = malloc((size_t)count * 64 + 1);
    for (int n = 0; n < count; n++) size += (size_t)sprintf(answer + size, "S%d=a value of some forty characters %06d", n, n) + 1;
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        char request[512];
        if (peer < 0) continue;
        if (read(peer, request, sizeof request) > 0 && write(peer, answer, size) < 0) perror("write");
        close(peer);
    }
}

static int become(const char *path, char **argv) {
    static char answer[1 << 20];
    struct sockaddr_un a = address(path);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(s, (struct sockaddr *)&a, sizeof a)) fail(path);
    if (write(s, "GET\n", 4) != 4) fail("write");
    size_t size = 0;
    ssize_t n;
    while ((n = read(s, answer + size, sizeof answer - size)) > 0) size += (size_t)n;
    size_t inherited = 0, given = 0;
    while (environ[inherited]) inherited++;
    for (size_t i = 0; i < size; i++) given += answer[i] == 0;
    char **environment = malloc((inherited + given + 1) * sizeof *environment);
    memcpy(environment, environ, inherited * sizeof *environment);
    for (char *p = answer; p < answer + size; p += strlen(p) + 1) environment[inherited++] = p;
    environment[inherited] = NULL;
    execve(argv[0], argv, environment);
    fail(argv[0]);
    return 127;
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "measure")) return measure(argv + 2);
    if (argc == 4 && !strcmp(argv[1], "serve")) serve(argv[2], atoi(argv[3]));
    if (argc > 3 && !strcmp(argv[1], "exec")) return become(argv[2], argv + 3);
    fprintf(stderr, "usage: floor measure|serve|exec ...\n");
    return 2;
}
