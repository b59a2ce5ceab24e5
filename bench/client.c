/* Streaming load client: one thread, epoll, closed loop, cheap enough to share two cores with the server it measures.
 *
 * Opens --streams keep-alive connections spread over --ramp seconds. Each POSTs the body, reads the SSE answer to its end and
 * posts again; an answer in one piece, one JSON object, will do as well. After --warm-up seconds a window of --window seconds is measured and printed as one JSON object:
 *
 *   tokens        completion_tokens of the usage of every request that ended in the window; of those still open, their events
 *   merged        tokens that came in no event of their own (tokens - events; negative: events that carried no token)
 *   server_cpu_s  CPU time of the processes in --pids, all threads, exact (their CPU clocks, not ticks)
 *   gap_error_us  time between two token events of a stream less --itl; absolute values, and their signed mean as the drift
 *   ttft_error_us time from the request's write to its first token event less --ttft, in the same form
 *   memory_*      RSS and PSS of the processes before the first request, and when the window ends with the streams open
 *
 * Anything but a complete 200 answer ends the run with one line on stderr and exit code 1: a window with errors measures nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PIDS = 64, READ_SIZE = 1 << 16, MAX_PART = 1 << 20, BATCH = 512 };
enum state { HEAD, CHUNK_SIZE, EXTENSION, CHUNK, CHUNK_END, TRAILER, SIZED, UNTIL_CLOSE };

typedef struct {
  int fd, status, closes, done, reused;
  enum state state;
  int64_t left;           /* bytes left of the chunk or of the sized body; in TRAILER, length of the current line */
  char *part;             /* an unfinished head or line, kept over reads */
  size_t part_len, part_cap;
  int64_t sent, last;     /* when the request was written, when the last token event came (ns); last is 0 before the first */
  long events, usage;     /* token events so far; completion_tokens as last told, -1 if never */
} stream;

typedef struct { int32_t *at; size_t len, cap; } samples;
typedef struct { int64_t time, server_cpu, client_cpu, busy, steal; long events, correction, finished; } snapshot;

static const char *host = "127.0.0.1", *port = "8000", *path = "/v1/chat/completions", *body = "{}";
static int n_streams = 1, n_pids;
static pid_t pids[MAX_PIDS];
static double ramp = 1, warm_up = 2, window = 10, ttft_ms = -1, itl_ms = -1;

static struct addrinfo *address;
static char *request;
static size_t request_len;
static int poll_fd, measuring;
static long events, correction, finished, without_usage;
static samples gaps, ttfts;

static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  exit(1);
}

static int64_t clock_ns(clockid_t id) {
  struct timespec t;
  if (clock_gettime(id, &t)) die("a measured process has ended");
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t now(void) { return clock_ns(CLOCK_MONOTONIC); }

static void *grow(void *old, size_t bytes) {
  void *p = realloc(old, bytes);
  if (!p) die("out of memory");
  return p;
}

static void sample(samples *s, int64_t ns, double due_ms) {
  if (!measuring) return;
  if (s->len == s->cap) s->at = grow(s->at, (s->cap = s->cap ? 2 * s->cap : 4096) * sizeof *s->at);
  s->at[s->len++] = (int32_t)((double)ns / 1e3 - due_ms * 1e3);
}

/* ---- what an event says ---- */

/* The value after `"key":` in a JSON object's text, NULL if absent. A quoted key cannot occur inside a JSON string, whose quotes are escaped. */
static const char *value_of(const char *json, size_t len, const char *key) {
  size_t key_len = strlen(key);
  const char *end = json + len, *p = memmem(json, len, key, key_len);
  if (!p) return NULL;
  for (p += key_len; p < end && *p == ' '; p++) {}
  return p < end ? p : NULL;
}

static int has_text(const char *value) { return value && value[0] == '"' && value[1] != '"'; }

/* A chunk carries a token if it has text, or if it is a choice's plain chunk whose text is held back (half a character): not the
 * role chunk, not a finish chunk without text, not the usage chunk. A finish chunk without text may stand for an end-of-sequence
 * token; the usage tells. */
static int is_token(const char *json, size_t len) {
  const char *v;
  if (has_text(value_of(json, len, "\"content\":")) || has_text(value_of(json, len, "\"text\":"))) return 1;
  if (!(v = value_of(json, len, "\"choices\":")) || (v[0] == '[' && v[1] == ']')) return 0;
  if ((v = value_of(json, len, "\"finish_reason\":")) && *v == '"') return 0;
  return !value_of(json, len, "\"role\":");
}

static void on_event(stream *s, const char *json, size_t len, int64_t t) {
  if (len >= 6 && !memcmp(json, "[DONE]", 6)) s->done = 1;
  if (len >= 8 && !memcmp(json, "{\"error\"", 8)) die("the stream broke off with an error: %.*s", (int)(len > 300 ? 300 : len), json);
  const char *v = value_of(json, len, "\"completion_tokens\":");
  if (v) s->usage = strtol(v, NULL, 10);
  if (!is_token(json, len)) return;
  events++;
  s->events++;
  if (itl_ms < 0) return;
  if (s->last) sample(&gaps, t - s->last, itl_ms);
  else sample(&ttfts, t - s->sent, ttft_ms);
  s->last = t;
}

/* ---- HTTP ---- */

static void keep(stream *s, const char *p, size_t n) {
  if (s->part_len + n + 1 > MAX_PART) die("the server sent a line or head of more than %d bytes", MAX_PART);
  if (s->part_len + n + 1 > s->part_cap) s->part = grow(s->part, s->part_cap = 2 * (s->part_len + n + 1));
  memcpy(s->part + s->part_len, p, n);
  s->part[s->part_len += n] = 0;
}

static void hang_up(stream *s) {
  close(s->fd);
  s->fd = -1;
}

static void post(stream *s) {
  if (s->fd < 0) {
    int one = 1;
    if ((s->fd = socket(address->ai_family, SOCK_STREAM, 0)) < 0) die("socket: %s", strerror(errno));
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s->fd, address->ai_addr, address->ai_addrlen)) die("connect to %s:%s: %s", host, port, strerror(errno));
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, s->fd, &e);
    s->reused = 0;
  }
  s->state = HEAD, s->status = s->closes = s->done = 0, s->part_len = 0;
  s->events = s->last = 0, s->usage = -1;
  s->sent = now();
  if (write(s->fd, request, request_len) != (ssize_t)request_len) {
    if (!s->reused) die("write: %s", strerror(errno));
    hang_up(s); /* the server closed an idle connection, as it may */
    post(s);
  }
}

/* An answer in one piece: all of its tokens came without an event of their own. */
static void whole(stream *s) {
  const char *v = value_of(s->part, s->part_len, "\"completion_tokens\":");
  if (!v || s->part[s->part_len - 1] != '}') die("the answer is no complete JSON object with a usage: %.300s", s->part);
  s->usage = strtol(v, NULL, 10);
  s->done = 1;
}

static void complete(stream *s) {
  if (s->status != 200) die("the server answered %d: %.300s", s->status, s->part_len ? s->part : "");
  if (s->part_len && s->part[0] == '{') whole(s);
  if (!s->done) die("the answer ended without [DONE] after %ld token events", s->events);
  finished++;
  if (s->usage < 0) without_usage++;
  else correction += s->usage - s->events;
  if (s->closes) hang_up(s);
  s->reused = 1;
  post(s);
}

static void on_line(stream *s, const char *line, size_t len, int64_t t) {
  if (len && line[len - 1] == '\r') len--;
  size_t skip = len > 5 && line[5] == ' ' ? 6 : 5;
  if (len >= 5 && !memcmp(line, "data:", 5)) on_event(s, line + skip, len - skip, t);
}

static void on_body(stream *s, const char *p, size_t n, int64_t t) {
  for (const char *end; s->status == 200 && n && (end = memchr(p, '\n', n)); n -= (size_t)(end + 1 - p), p = end + 1) {
    if (!s->part_len) on_line(s, p, (size_t)(end - p), t);
    else {
      keep(s, p, (size_t)(end - p));
      on_line(s, s->part, s->part_len, t);
      s->part_len = 0;
    }
  }
  if (n) keep(s, p, n);
}

static void on_head(stream *s) {
  const char *length = strcasestr(s->part, "\r\ncontent-length:"), *coding = strcasestr(s->part, "\r\ntransfer-encoding:");
  const char *connection = strcasestr(s->part, "\r\nconnection:");
  if (sscanf(s->part, "HTTP/1.%*d %d", &s->status) != 1) die("not an HTTP/1 answer: %.60s", s->part);
  s->closes = !strncmp(s->part, "HTTP/1.0", 8);
  if (connection) s->closes = !strncasecmp(connection + 13 + strspn(connection + 13, " "), "close", 5);
  s->left = 0;
  if (coding && strcasestr(coding, "chunked")) s->state = CHUNK_SIZE;
  else if (length) s->state = SIZED, s->left = strtoll(length + 17, NULL, 10);
  else s->state = UNTIL_CLOSE, s->closes = 1;
  s->part_len = 0;
}

static int hex(char c) {
  const char digits[] = "0123456789abcdef", *at = strchr(digits, c | 32);
  if (!c || !at) die("bad chunk size in the answer");
  return (int)(at - digits);
}

/* Takes n bytes that arrived at t. True when they ended the answer; what came after the end would belong to no request. */
static int feed(stream *s, const char *p, size_t n, int64_t t) {
  while (n) {
    size_t used = 1;
    switch (s->state) {
    case HEAD:
      keep(s, p, 1);
      if (s->part_len < 4 || memcmp(s->part + s->part_len - 4, "\r\n\r\n", 4)) break;
      on_head(s);
      if (s->state == SIZED && !s->left) return 1;
      break;
    case CHUNK_SIZE:
    case EXTENSION:
      if (*p == '\n') s->state = s->left ? CHUNK : TRAILER;
      else if (strchr("; \r", *p)) s->state = EXTENSION;
      else if (s->state == CHUNK_SIZE) s->left = s->left * 16 + hex(*p);
      break;
    case CHUNK:
    case SIZED:
      used = n < (size_t)s->left ? n : (size_t)s->left;
      on_body(s, p, used, t);
      if (s->left -= (int64_t)used) break;
      if (s->state == SIZED) return 1;
      s->state = CHUNK_END;
      break;
    case CHUNK_END:
      if (*p == '\n') s->state = CHUNK_SIZE;
      break;
    case TRAILER:
      if (*p == '\n' && !s->left) return 1;
      s->left = *p == '\n' ? 0 : s->left + (*p != '\r');
      break;
    case UNTIL_CLOSE:
      on_body(s, p, used = n, t);
      break;
    }
    p += used, n -= used;
  }
  return 0;
}

static void on_readable(stream *s) {
  static char buffer[READ_SIZE];
  ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) {
    if (feed(s, buffer, (size_t)n, itl_ms >= 0 ? now() : 0)) complete(s);
    return;
  }
  int idle = s->state == HEAD && !s->part_len && s->reused;
  hang_up(s);
  if (s->state == UNTIL_CLOSE) complete(s);
  else if (idle) post(s); /* the server closed an idle connection while the request was on its way */
  else die("the server closed the connection after %ld token events", s->events);
}

/* ---- what is measured ---- */

static int64_t server_cpu(void) {
  int64_t total = 0;
  clockid_t id;
  for (int i = 0; i < n_pids; i++) {
    if (clock_getcpuclockid(pids[i], &id)) die("process %d has ended", (int)pids[i]);
    total += clock_ns(id);
  }
  return total;
}

static snapshot take(void) {
  snapshot s = {.time = now(), .server_cpu = server_cpu(), .client_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
  long long user = 0, nice = 0, system = 0, irq = 0, soft = 0, steal = 0;
  FILE *f = fopen("/proc/stat", "r");
  if (f) {
    if (fscanf(f, "cpu %lld %lld %lld %*d %*d %lld %lld %lld", &user, &nice, &system, &irq, &soft, &steal) != 6) steal = 0;
    fclose(f);
  }
  int64_t tick = 1000000000LL / sysconf(_SC_CLK_TCK);
  s.busy = (user + nice + system + irq + soft) * tick, s.steal = steal * tick;
  s.events = events, s.correction = correction, s.finished = finished;
  return s;
}

static void memory(long *rss, long *pss) {
  char line[256], name[64];
  *rss = *pss = 0;
  for (int i = 0; i < n_pids; i++) {
    snprintf(name, sizeof name, "/proc/%d/smaps_rollup", (int)pids[i]);
    FILE *f = fopen(name, "r");
    if (!f) die("%s: %s", name, strerror(errno));
    long kb;
    while (fgets(line, sizeof line, f)) {
      if (sscanf(line, "Rss: %ld", &kb) == 1) *rss += kb * 1024;
      if (sscanf(line, "Pss: %ld", &kb) == 1) *pss += kb * 1024;
    }
    fclose(f);
  }
}

static int ascending(const void *a, const void *b) {
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

static void print_errors(const char *name, samples *s) {
  if (!s->len) return;
  double sum = 0, sum_abs = 0;
  for (size_t i = 0; i < s->len; i++) {
    sum += s->at[i];
    s->at[i] = abs(s->at[i]);
    sum_abs += s->at[i];
  }
  qsort(s->at, s->len, sizeof *s->at, ascending);
  double n = (double)s->len;
#define QUANTILE(q) s->at[(size_t)((n - 1) * (q))]
  printf(", \"%s\": {\"count\": %zu, \"mean_signed\": %.1f, \"mean\": %.1f, \"p50\": %d, \"p99\": %d, \"p999\": %d, \"max\": %d}", name, s->len,
         sum / n, sum_abs / n, QUANTILE(.5), QUANTILE(.99), QUANTILE(.999), QUANTILE(1));
}

static void read_options(int argc, char **argv) {
  static const struct option options[] = {
      {"host", 1, 0, 'h'}, {"port", 1, 0, 'p'},  {"path", 1, 0, 'u'},   {"body", 1, 0, 'b'},   {"streams", 1, 0, 'c'}, {"pids", 1, 0, 'P'},
      {"ramp", 1, 0, 'r'}, {"ttft", 1, 0, 'F'},  {"itl", 1, 0, 'I'},    {"warm-up", 1, 0, 'w'}, {"window", 1, 0, 'd'}, {0, 0, 0, 0}};
  for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (o) {
    case 'h': host = optarg; break; case 'p': port = optarg; break;
    case 'u': path = optarg; break; case 'b': body = optarg; break;
    case 'c': n_streams = atoi(optarg); break; case 'r': ramp = atof(optarg); break;
    case 'w': warm_up = atof(optarg); break; case 'd': window = atof(optarg); break;
    case 'F': ttft_ms = atof(optarg); break; case 'I': itl_ms = atof(optarg); break;
    case 'P':
      for (char *p = strtok(optarg, ","); p && n_pids < MAX_PIDS; p = strtok(NULL, ",")) pids[n_pids++] = atoi(p);
      break;
    default: exit(2);
    }
  if (n_streams < 1 || window <= 0) die("--streams and --window must be above 0");
}

static void prepare(void) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  struct rlimit files;
  int error = getaddrinfo(host, port, &hints, &address);
  if (error) die("%s: %s", host, gai_strerror(error));
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if ((rlim_t)n_streams + 16 > files.rlim_cur) die("%d streams need more open files than the limit of %lu", n_streams, (unsigned long)files.rlim_cur);
  int len = asprintf(&request, "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", path, host, port,
                     strlen(body), body);
  if (len < 0) die("out of memory");
  request_len = (size_t)len;
  poll_fd = epoll_create1(0);
}

int main(int argc, char **argv) {
  long rss0, pss0, rss1, pss1;
  struct epoll_event ready[BATCH];
  read_options(argc, argv);
  prepare();
  memory(&rss0, &pss0);
  stream *streams = calloc((size_t)n_streams, sizeof *streams);
  if (!streams) die("out of memory");
  for (int i = 0; i < n_streams; i++) streams[i].fd = -1;

  const int64_t start = now(), window_start = start + (int64_t)(warm_up * 1e9), end = window_start + (int64_t)(window * 1e9);
  const double step = ramp * 1e9 / n_streams;
  snapshot a = {0};
  int next = 0;
  for (int64_t t; (t = now()) < end;) {
    for (; next < n_streams && start + (int64_t)(step * next) <= t; next++) post(&streams[next]);
    if (!measuring && t >= window_start) measuring = 1, a = take();
    int64_t wake = measuring ? end : window_start;
    if (next < n_streams && start + (int64_t)(step * next) < wake) wake = start + (int64_t)(step * next);
    int n = epoll_wait(poll_fd, ready, BATCH, wake > t ? (int)((wake - t + 999999) / 1000000) : 0);
    for (int i = 0; i < n; i++) on_readable(ready[i].data.ptr);
  }
  const snapshot b = take();
  memory(&rss1, &pss1);

  const double seconds = (double)(b.time - a.time) / 1e9, cpu = (double)(b.server_cpu - a.server_cpu) / 1e9;
  const double client = (double)(b.client_cpu - a.client_cpu) / 1e9, other = (double)(b.busy - a.busy) / 1e9 - cpu - client;
  const long seen = b.events - a.events, merged = b.correction - a.correction;
  printf("{\"streams\": %d, \"window_s\": %.4f, \"tokens\": %ld, \"events\": %ld, \"merged\": %ld, \"requests\": %ld, \"requests_without_usage\": %ld", n_streams,
         seconds, seen + merged, seen, merged, b.finished - a.finished, without_usage);
  printf(", \"server_cpu_s\": %.6f, \"client_cpu_s\": %.6f, \"other_cpu_s\": %.3f, \"steal_s\": %.3f", cpu, client, other > 0 ? other : 0,
         (double)(b.steal - a.steal) / 1e9);
  printf(", \"memory_before\": {\"rss\": %ld, \"pss\": %ld}, \"memory_after\": {\"rss\": %ld, \"pss\": %ld}", rss0, pss0, rss1, pss1);
  print_errors("gap_error_us", &gaps);
  print_errors("ttft_error_us", &ttfts);
  puts("}");
  return 0;
}
