// load: asks an OpenAI endpoint as many clients would, and prints what it saw as one line of JSON.
//
// One thread, epoll, keep-alive connections, each with a session header of its own. Closed loop (every
// client asks again at once) or a fixed rate; under a rate, times count from the instant a request was
// due, so that a slow server cannot hide by slowing the clients down. Reads the stamps that `backend`
// puts into its events: the time each one was on its way.
//
// Usage: load PORT CLIENTS SECONDS WARM_SECONDS BODY_FILE STREAM(0|1) RATE(0: closed loop) STAGGER_US
// The bearer key comes in the environment: LOAD_KEY. Figures count what ended between WARM_SECONDS and
// WARM_SECONDS + SECONDS; "all_requests" and "all_events" count everything, to divide CPU time by.

#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_FDS = 65536,
    MAX_CLIENTS = 60000,
    MAX_EVENTS = 1024,
    MAX_SAMPLES = 8 << 20, // per figure; later ones are not kept
    HEAD_BYTES = 8192,     // of a reply's head
    REQUEST_HEAD_BYTES = 768,
    READ_BYTES = 256 << 10,
    STAMP_DIGITS = 16,
    STAMP_BYTES = 2 + STAMP_DIGITS, // "@T" before them
    END_BYTES = 7,                  // "\r\n0\r\n\r\n", the end of a chunked body
    RETRY_MS = 50,
};

static const int64_t NS_PER_US = 1000, NS_PER_MS = 1000000, NS_PER_S = 1000000000;

struct client {
    int fd; // -1: not connected
    bool busy, in_body, chunked, seen_event, wants_write;
    char request_head[REQUEST_HEAD_BYTES];
    size_t request_head_length, sent;
    int64_t due_ns;   // when the running request was due
    int64_t start_ns; // not to be started before
    char head[HEAD_BYTES];
    size_t head_length;
    int64_t length, got; // of the reply's body; length -1: unknown
    char end[END_BYTES]; // its last bytes
    char part[STAMP_BYTES];
    size_t part_length; // a stamp cut in two by a read
};

struct samples {
    float *values; // microseconds
    size_t count, room;
};

static struct client *clients;
static struct client *by_fd[MAX_FDS];
static int client_count;
static struct {
    int *numbers;
    int first, count;
} idle; // clients with nothing to do, in a ring, longest first

static char *body;
static size_t body_length;
static bool streaming;
static int port, poller;
static int64_t begin_ns, end_ns; // of what is counted
static struct samples latency, first_event, transit;
static uint64_t requests, events, bytes, errors, bad, all_requests, all_events;

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NS_PER_S + time.tv_nsec;
}

static void *must(void *memory) {
    if (!memory) {
        fputs("load: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static bool counts(int64_t time) { return time >= begin_ns && time < end_ns; }

// -- figures ------------------------------------------------------------------------------------

static void add(struct samples *s, int64_t ns) {
    if (s->count == s->room) {
        if (s->room >= MAX_SAMPLES)
            return;
        s->room = s->room ? s->room * 2 : 65536;
        s->values = must(realloc(s->values, s->room * sizeof *s->values));
    }
    s->values[s->count++] = (float)ns / 1000.0F;
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(const struct samples *s, double share) {
    return s->count ? (double)s->values[(size_t)(share * (double)(s->count - 1))] : -1;
}

static void show(const char *name, struct samples *s) {
    if (s->count)
        qsort(s->values, s->count, sizeof *s->values, compare);
    printf(",\"%s_p50_us\":%.1f,\"%s_p99_us\":%.1f,\"%s_max_us\":%.1f", name, quantile(s, 0.5), name,
           quantile(s, 0.99), name, quantile(s, 1));
}

static void show_all(double seconds) {
    printf("{\"per_s\":%.1f,\"events_s\":%.1f,\"mb_s\":%.2f,\"errors\":%" PRIu64 ",\"bad\":%" PRIu64
           ",\"all_requests\":%" PRIu64 ",\"all_events\":%" PRIu64,
           (double)requests / seconds, (double)events / seconds, (double)bytes / seconds / 1e6, errors, bad,
           all_requests, all_events);
    show("latency", &latency);
    show("ttfb", &first_event);
    show("transit", &transit);
    puts("}");
}

// -- requests -----------------------------------------------------------------------------------

static void rest(struct client *c) {
    idle.numbers[(idle.first + idle.count++) % client_count] = (int)(c - clients);
}

static struct client *next_idle(void) {
    struct client *c = &clients[idle.numbers[idle.first]];
    idle.first = (idle.first + 1) % client_count;
    idle.count--;
    return c;
}

static void watch(struct client *c, bool write) {
    struct epoll_event wanted = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wanted);
    c->wants_write = write;
}

// Begin to connect; what is sent before it is done waits for the poller.
static bool connect_to_server(struct client *c) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0)
        return false;
    bool begun = !connect(fd, (struct sockaddr *)&address, sizeof address) || errno == EINPROGRESS;
    if (fd >= MAX_FDS || !begun) {
        close(fd);
        return false;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->fd = fd;
    by_fd[fd] = c;
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted);
    return true;
}

static void disconnect(struct client *c) {
    by_fd[c->fd] = NULL;
    close(c->fd);
    c->fd = -1;
    c->wants_write = false;
}

static void finish(struct client *c, int64_t time, bool good) {
    if (!good) {
        errors++;
        c->start_ns = time + RETRY_MS * NS_PER_MS;
    } else {
        all_requests++;
        if (counts(time)) {
            requests++;
            add(&latency, time - c->due_ns);
        }
    }
    c->busy = false;
    rest(c);
}

// Send what is left of the request.
static void push(struct client *c) {
    size_t head = c->request_head_length;
    while (c->sent < head + body_length) {
        struct iovec parts[2];
        int count = 0;
        if (c->sent < head)
            parts[count++] = (struct iovec){c->request_head + c->sent, head - c->sent};
        size_t done = c->sent < head ? 0 : c->sent - head;
        parts[count++] = (struct iovec){body + done, body_length - done};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
        ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EAGAIN && !c->wants_write)
                watch(c, true);
            return; // another error: the next read says so
        }
        c->sent += (size_t)sent;
    }
    if (c->wants_write)
        watch(c, false);
}

static void start(struct client *c, int64_t due_ns) {
    if (c->fd < 0 && !connect_to_server(c)) {
        errors++;
        c->start_ns = now_ns() + RETRY_MS * NS_PER_MS;
        rest(c);
        return;
    }
    c->busy = true;
    c->in_body = c->chunked = c->seen_event = false;
    c->sent = c->head_length = c->part_length = 0;
    c->length = -1;
    c->got = 0;
    memset(c->end, 0, sizeof c->end);
    c->due_ns = due_ns;
    push(c);
}

// -- replies ------------------------------------------------------------------------------------

static void on_stamp(struct client *c, const char *digits, int64_t time) {
    int64_t sent = 0;
    for (int i = 0; i < STAMP_DIGITS; i++)
        sent = sent * 10 + (digits[i] - '0');
    all_events++;
    if (!c->seen_event && counts(time))
        add(&first_event, time - c->due_ns);
    c->seen_event = true;
    if (counts(time)) {
        events++;
        add(&transit, time - sent);
    }
}

// Look for stamps, also for one that the last read has cut in two.
static void scan(struct client *c, const char *data, size_t length, int64_t time) {
    static char joined[READ_BYTES + STAMP_BYTES];
    memcpy(joined, c->part, c->part_length);
    memcpy(joined + c->part_length, data, length);
    const char *place = joined, *stop = joined + c->part_length + length;
    c->part_length = 0;
    while ((place = memchr(place, '@', (size_t)(stop - place))) != NULL) {
        if (stop - place < STAMP_BYTES) {
            c->part_length = (size_t)(stop - place);
            memcpy(c->part, place, c->part_length);
            return;
        }
        if (place[1] == 'T') {
            on_stamp(c, place + 2, time);
            place += STAMP_BYTES;
        } else {
            place++;
        }
    }
}

// Take the head of the reply, which may come in pieces. Returns how many bytes belonged to it.
static size_t read_head(struct client *c, const char *data, size_t length) {
    size_t old = c->head_length, room = sizeof c->head - 1 - old, part = length < room ? length : room;
    memcpy(c->head + old, data, part);
    c->head_length += part;
    c->head[c->head_length] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return length;
    end[2] = 0;
    if (strncmp(c->head + 9, "200", 3) != 0 && bad++ == 0)
        fprintf(stderr, "%.400s\n", c->head);
    char *field = strcasestr(c->head, "\r\ncontent-length:");
    if (field)
        c->length = atoll(field + 17);
    c->chunked = !field && strcasestr(c->head, "\r\ntransfer-encoding: chunked");
    c->in_body = true;
    return (size_t)(end - c->head) + 4 - old;
}

static bool reply_is_whole(const struct client *c) {
    if (c->length >= 0)
        return c->got >= c->length;
    return c->chunked && !memcmp(c->end, "\r\n0\r\n\r\n", END_BYTES);
}

static void keep_end(struct client *c, const char *data, size_t length) {
    if (length >= END_BYTES) {
        memcpy(c->end, data + length - END_BYTES, END_BYTES);
    } else {
        memmove(c->end, c->end + length, END_BYTES - length);
        memcpy(c->end + END_BYTES - length, data, length);
    }
}

static void take(struct client *c) {
    static char data[READ_BYTES];
    ssize_t got = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
    int64_t time = now_ns();
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        disconnect(c);
        if (c->busy)
            finish(c, time, got == 0 && c->in_body && c->length < 0 && !c->chunked);
        return;
    }
    if (counts(time))
        bytes += (uint64_t)got;
    if (!c->busy)
        return;
    const char *place = data;
    size_t left = (size_t)got;
    if (!c->in_body) {
        size_t head = read_head(c, place, left);
        if (!c->in_body)
            return;
        place += head;
        left -= head;
    }
    c->got += (int64_t)left;
    if (streaming)
        scan(c, place, left, time);
    keep_end(c, place, left);
    if (reply_is_whole(c)) {
        bool closes = strcasestr(c->head, "\r\nconnection: close") != NULL;
        finish(c, time, true);
        if (closes)
            disconnect(c);
    }
}

// -- the loop -----------------------------------------------------------------------------------

static void start_idle(int64_t time) {
    for (int left = idle.count; left > 0; left--) {
        struct client *c = next_idle();
        if (c->start_ns > time)
            rest(c);
        else
            start(c, now_ns());
    }
}

// Milliseconds until something is due, for the poller; 0 where it is due now.
static int pause_ms(double rate, int64_t next_ns) {
    if (rate <= 0)
        return idle.count ? 1 : 20;
    if (!idle.count)
        return 20;
    int64_t left = next_ns - now_ns();
    return left > NS_PER_MS ? (int)(left / NS_PER_MS) : 0;
}

static void run(double rate, int64_t from_ns) {
    static struct epoll_event ready[MAX_EVENTS];
    int64_t next_ns = from_ns, time;
    while ((time = now_ns()) < end_ns) {
        if (rate <= 0)
            start_idle(time);
        for (; rate > 0 && next_ns <= time && idle.count; next_ns += (int64_t)(1e9 / rate))
            start(next_idle(), next_ns);
        int count = epoll_wait(poller, ready, MAX_EVENTS, pause_ms(rate, next_ns));
        for (int i = 0; i < count; i++) {
            struct client *c = by_fd[ready[i].data.fd];
            if (c && c->busy && (ready[i].events & EPOLLOUT))
                push(c);
            if (c && (ready[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
                take(c);
        }
    }
}

static void read_body(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) {
        perror(path);
        exit(1);
    }
    body_length = (size_t)ftell(file);
    rewind(file);
    body = must(malloc(body_length + 1));
    if (fread(body, 1, body_length, file) != body_length) {
        perror(path);
        exit(1);
    }
    fclose(file);
}

static void make_clients(int64_t from_ns, int64_t stagger_ns) {
    const char *key = getenv("LOAD_KEY") ? getenv("LOAD_KEY") : "none";
    clients = must(calloc((size_t)client_count, sizeof *clients));
    idle.numbers = must(calloc((size_t)client_count, sizeof *idle.numbers));
    for (int i = 0; i < client_count; i++) {
        struct client *c = &clients[i];
        c->fd = -1;
        c->start_ns = from_ns + i * stagger_ns;
        int length = snprintf(c->request_head, sizeof c->request_head,
                              "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                              "Content-Type: application/json\r\nAuthorization: Bearer %.256s\r\n"
                              "User-Agent: agent/1\r\nAccept: */*\r\nX-Session-Id: s%06d\r\n"
                              "Content-Length: %zu\r\n\r\n",
                              port, key, i, body_length);
        c->request_head_length = (size_t)length;
        rest(c);
    }
}

int main(int argc, char **argv) {
    if (argc != 9) {
        fputs("usage: load PORT CLIENTS SECONDS WARM_SECONDS BODY_FILE STREAM RATE STAGGER_US\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL); // never outlive the benchmark that started us
    port = atoi(argv[1]);
    client_count = atoi(argv[2]);
    if (client_count < 1 || client_count > MAX_CLIENTS) {
        fprintf(stderr, "load: CLIENTS is 1 to %d\n", MAX_CLIENTS);
        return 2;
    }
    double seconds = atof(argv[3]), warm = atof(argv[4]);
    read_body(argv[5]);
    streaming = atoi(argv[6]) != 0;
    poller = epoll_create1(EPOLL_CLOEXEC);
    int64_t from_ns = now_ns();
    begin_ns = from_ns + (int64_t)(warm * 1e9);
    end_ns = begin_ns + (int64_t)(seconds * 1e9);
    make_clients(from_ns, atol(argv[8]) * NS_PER_US);
    run(atof(argv[7]), from_ns);
    show_all(seconds);
}
