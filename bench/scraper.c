/* Scrapes /metrics of many servers at a steady rate each, as an endpoint picker does: one connection per server that is
 * kept, one request at a time on it, plain GET. One thread; built and run by bench/scale.py.
 *
 *     scraper RATE SECONDS WARM_UP < addresses
 *
 * RATE is scrapes per second and server, WARM_UP seconds are not measured. Standard input holds `ADDRESS PORT` a line.
 * Each server's scrapes are spread evenly over time, and the servers' among each other. A scrape that is due while the
 * one before has no answer is skipped, as a ticker's tick is. Time is taken from when a scrape was due to the last byte
 * of its answer, so that a late client counts against the figure and never for it.
 *
 * Standard output gets one JSON object: scrapes that ended in the window and skipped ones, servers that failed and the
 * first reason, percentiles of the times in microseconds, bytes of the answers, CPU seconds of this program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_SERVERS 20000
#define HEADERS 2048
#define CHUNK 262144

struct server {
    struct sockaddr_in address;
    int fd;
    int asking;          /* a request has no whole answer */
    int64_t due;         /* of the request under way or the next one */
    int64_t left;        /* bytes of the body to come, -1 while headers come */
    int headers;         /* bytes of headers so far */
    char head[HEADERS];
    char request[128];
    int request_size;
};

static struct server *servers;
static int count, failed;
static char reason[256];
static int64_t begin, from, until, interval;
static int64_t skipped, bytes;
static uint32_t *times;
static size_t taken, room;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(struct server *s, const char *what)
{
    if (!failed)
        snprintf(reason, sizeof reason, "%s:%d: %s", inet_ntoa(s->address.sin_addr), ntohs(s->address.sin_port), what);
    failed++;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static void note(int64_t ns)
{
    if (taken == room) {
        room = room ? 2 * room : 1 << 16;
        times = realloc(times, room * sizeof *times);
        if (!times)
            exit(3);
    }
    times[taken++] = ns / 1000 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 1000);
}

static void ask(struct server *s)
{
    s->asking = 1;
    s->left = -1;
    s->headers = 0;
    if (write(s->fd, s->request, s->request_size) != s->request_size)
        fail(s, strerror(errno));
}

static void answered(struct server *s, int64_t at)
{
    s->asking = 0;
    if (s->due >= from && s->due < until)
        note(at - s->due);
    s->due += interval;
    while (s->due < at) { /* it came too late for the next ones */
        if (s->due >= from && s->due < until)
            skipped++;
        s->due += interval;
    }
}

static void feed(struct server *s, char *data, int64_t size, int64_t at)
{
    if (s->left < 0) {
        int64_t fits = size < HEADERS - 1 - s->headers ? size : HEADERS - 1 - s->headers;
        memcpy(s->head + s->headers, data, fits);
        s->headers += fits;
        s->head[s->headers] = 0;
        char *end = strstr(s->head, "\r\n\r\n");
        if (!end) {
            if (s->headers == HEADERS - 1)
                fail(s, "headers without an end");
            return;
        }
        char *length = strcasestr(s->head, "\r\ncontent-length:");
        if (strncmp(s->head, "HTTP/1.1 200 ", 13) || !length) {
            fail(s, "the answer is not 200 with a length");
            return;
        }
        int64_t body = s->headers - (end + 4 - s->head); /* of the body among the headers' bytes */
        s->left = atoll(length + 17) - (body + (size - fits));
    } else {
        s->left -= size;
    }
    if (s->left < 0)
        fail(s, "the answer is longer than it says");
    else if (s->left == 0)
        answered(s, at);
}

/* servers in the order in which they are due: a binary heap of those that are not asking */
static int *heap, heaped;

static int before(int a, int b)
{
    return servers[a].due < servers[b].due;
}

static void push(int i)
{
    int at = heaped++;
    heap[at] = i;
    while (at && before(heap[at], heap[(at - 1) / 2])) {
        int up = (at - 1) / 2, t = heap[at];
        heap[at] = heap[up];
        heap[up] = t;
        at = up;
    }
}

static int pop(void)
{
    int top = heap[0], at = 0;
    heap[0] = heap[--heaped];
    for (;;) {
        int child = 2 * at + 1;
        if (child >= heaped)
            break;
        if (child + 1 < heaped && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], heap[at]))
            break;
        int t = heap[at];
        heap[at] = heap[child];
        heap[child] = t;
        at = child;
    }
    return top;
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t share(double part)
{
    return taken ? times[(size_t)(part * (taken - 1))] : 0;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    double rate = atof(argv[1]), seconds = atof(argv[2]), warm_up = atof(argv[3]);
    char address[64];
    int port;
    servers = calloc(MOST_SERVERS, sizeof *servers);
    heap = calloc(MOST_SERVERS, sizeof *heap);
    char *data = malloc(CHUNK);
    int ep = epoll_create1(0);
    if (!servers || !heap || !data || ep < 0)
        return 3;
    while (count < MOST_SERVERS && scanf("%63s %d", address, &port) == 2) {
        struct server *s = &servers[count];
        s->address.sin_family = AF_INET;
        s->address.sin_port = htons(port);
        inet_pton(AF_INET, address, &s->address.sin_addr);
        s->request_size = snprintf(s->request, sizeof s->request, "GET /metrics HTTP/1.1\r\nHost: %s:%d\r\n\r\n", address, port);
        s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&s->address, sizeof s->address)) {
            fail(s, strerror(errno));
        } else {
            int on = 1;
            struct epoll_event event = {.events = EPOLLIN, .data.u32 = count};
            setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &event);
        }
        count++;
    }
    interval = 1e9 / rate;
    begin = now();
    from = begin + warm_up * 1e9;
    until = from + seconds * 1e9;
    for (int i = 0; i < count; i++) {
        servers[i].due = begin + (int64_t)((double)interval * i / count);
        if (servers[i].fd >= 0)
            push(i);
    }
    struct rusage idle, done;
    getrusage(RUSAGE_SELF, &idle);
    struct epoll_event events[256];
    int64_t at;
    while ((at = now()) < until + 2000000000LL) {
        while (heaped && servers[heap[0]].due <= at && servers[heap[0]].due < until)
            ask(&servers[pop()]);
        int asking = 0;
        if (at >= until)
            for (int i = 0; i < count; i++)
                asking |= servers[i].fd >= 0 && servers[i].asking;
        if (at >= until && !asking)
            break;
        int64_t next = heaped && servers[heap[0]].due < until ? servers[heap[0]].due : at + 100000000LL;
        struct timespec wait = {0, next > at ? (next - at > 100000000LL ? 100000000LL : next - at) : 0};
        int ready = epoll_pwait2(ep, events, 256, &wait, NULL);
        for (int e = 0; e < ready; e++) {
            struct server *s = &servers[events[e].data.u32];
            if (s->fd < 0)
                continue;
            ssize_t size = recv(s->fd, data, CHUNK, MSG_DONTWAIT);
            if (size < 0 && (errno == EAGAIN || errno == EINTR))
                continue;
            if (size <= 0) {
                fail(s, size ? strerror(errno) : "the connection was closed");
                continue;
            }
            at = now();
            if (s->due >= from && s->due < until)
                bytes += size;
            feed(s, data, size, at);
            if (s->fd >= 0 && !s->asking)
                push(events[e].data.u32);
        }
    }
    for (int i = 0; i < count; i++)
        if (servers[i].fd >= 0 && servers[i].asking)
            fail(&servers[i], "no answer two seconds after the end");
    getrusage(RUSAGE_SELF, &done);
    double cpu = done.ru_utime.tv_sec + done.ru_stime.tv_sec - idle.ru_utime.tv_sec - idle.ru_stime.tv_sec +
                 (done.ru_utime.tv_usec + done.ru_stime.tv_usec - idle.ru_utime.tv_usec - idle.ru_stime.tv_usec) / 1e6;
    qsort(times, taken, sizeof *times, ascending);
    printf("{\"servers\": %d, \"failed\": %d, \"reason\": \"%s\", \"scrapes\": %zu, \"skipped\": %lld, \"p50_us\": %u, "
           "\"p99_us\": %u, \"p999_us\": %u, \"max_us\": %u, \"bytes\": %lld, \"client_cpu_s\": %.3f}\n",
           count, failed, reason, taken, (long long)skipped, share(0.5), share(0.99), share(0.999), share(1),
           (long long)bytes, cpu);
    return 0;
}
