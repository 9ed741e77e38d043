// backend: stands in for a vLLM server, so cheap that what is measured is the gateway before it.
//
// One thread, epoll, replies of vLLM's size and framing: 993 bytes of JSON, or server-sent events
// with one HTTP chunk and one send() per event. Every event carries the CLOCK_MONOTONIC time of its
// sending ("@T" and 16 digits, nanoseconds), so that the reader knows how long it was on its way.
//
// Three fields of the request body steer it (all of them are valid for a real vLLM):
//   "stream": true      reply with events
//   "max_tokens": N     how many
//   "seed": US          pause between two events; 0: as fast as the socket takes them, 16 a write
//   "top_k": MS         silence before the first event, or before the whole reply without "stream"
//
// GET /stats tells what happened, GET /reset forgets it. Usage: backend PORT (0 takes a free one; the
// port in use is the first line of stdout).

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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
#include <time.h>
#include <unistd.h>

enum {
    MAX_FDS = 65536,
    MAX_EVENTS = 1024,      // per epoll_wait
    MAX_REQUEST = 16 << 20, // bytes; a longer request closes its connection
    MAX_QUEUED = 1 << 20,   // bytes a slow reader may owe; no event is made beyond it
    READ_STEP = 64 << 10,   // bytes
    BATCH = 16,             // events in one write of an unpaced stream
    EVENT_BYTES = 512,      // room for one framed event
    STAMP_DIGITS = 16,
    FIELD_WINDOW = 3072, // steering fields are in the first or the last bytes of a body
};

static const int64_t NS_PER_US = 1000, NS_PER_MS = 1000000;

enum work { IDLE, STREAMING, LATE_REPLY };

struct connection {
    int fd;
    enum work work;
    bool silent; // nothing of the reply's body has been sent
    bool wants_write;
    int slot; // place in `active`
    char *in; // the request, as far as it has come
    size_t in_length, in_room;
    char *out; // what the socket did not take yet
    size_t out_length, out_room;
    long events_left;
    int64_t gap_ns, due_ns;
};

static struct connection *connections[MAX_FDS]; // by file descriptor
static struct connection *active[MAX_FDS];      // those with a reply that takes time
static int active_count;
static int poller;

static struct {
    uint64_t requests, done, aborted, events;
    int64_t last_abort_ns;
} stats;

static char event[EVENT_BYTES]; // one framed event
static size_t event_length, stamp_at;
static char answer[2048]; // the body of a reply without stream
static size_t answer_length;

static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\ndate: Sat, 22 Nov 2025 16:00:00 GMT\r\n"
                                  "server: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                                  "transfer-encoding: chunked\r\n\r\n";
static const char STREAM_END[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\","
                             "\"created\":1,\"owned_by\":\"vllm\",\"root\":\"m\",\"max_model_len\":262144}]}";

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void *must(void *memory) {
    if (!memory) {
        fputs("backend: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static void watch(struct connection *c, bool write) {
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP | (write ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wanted);
    c->wants_write = write;
}

// -- replies ------------------------------------------------------------------------------------

// Send, and keep what the socket does not take now.
static void put(struct connection *c, const char *data, size_t length) {
    if (c->out_length == 0) {
        ssize_t sent = send(c->fd, data, length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN)
                return; // the poller will say that it is gone
            sent = 0;
        }
        data += sent;
        length -= (size_t)sent;
    }
    if (length == 0)
        return;
    if (c->out_length + length > c->out_room) {
        c->out_room = (c->out_length + length) * 2;
        c->out = must(realloc(c->out, c->out_room));
    }
    memcpy(c->out + c->out_length, data, length);
    c->out_length += length;
    if (!c->wants_write)
        watch(c, true);
}

static void put_rest(struct connection *c) {
    ssize_t sent = send(c->fd, c->out, c->out_length, MSG_NOSIGNAL);
    if (sent > 0) {
        c->out_length -= (size_t)sent;
        memmove(c->out, c->out + sent, c->out_length);
    }
    if (c->out_length == 0)
        watch(c, false);
}

static void reply(struct connection *c, const char *body, size_t length) {
    char whole[4096];
    int head = snprintf(whole, sizeof whole,
                        "HTTP/1.1 200 OK\r\ndate: Sat, 22 Nov 2025 16:00:00 GMT\r\nserver: uvicorn\r\n"
                        "content-length: %zu\r\ncontent-type: application/json\r\n\r\n",
                        length);
    memcpy(whole + head, body, length);
    put(c, whole, (size_t)head + length);
}

static void activate(struct connection *c, enum work work) {
    c->work = work;
    c->silent = true;
    c->slot = active_count;
    active[active_count++] = c;
}

static void deactivate(struct connection *c) {
    active[c->slot] = active[--active_count];
    active[c->slot]->slot = c->slot;
    c->work = IDLE;
}

static void stamp(char *place, int64_t time) {
    for (int digit = STAMP_DIGITS - 1; digit >= 0; digit--, time /= 10)
        place[digit] = (char)('0' + time % 10);
}

// Send the next `count` events in one write; end the stream after the last.
static void put_events(struct connection *c, long count, int64_t time) {
    static char batch[BATCH * EVENT_BYTES];
    for (long i = 0; i < count; i++) {
        char *place = batch + (size_t)i * event_length;
        memcpy(place, event, event_length);
        stamp(place + stamp_at, time);
    }
    put(c, batch, (size_t)count * event_length);
    c->silent = false;
    c->events_left -= count;
    stats.events += (uint64_t)count;
    if (c->events_left <= 0) {
        put(c, STREAM_END, sizeof STREAM_END - 1);
        deactivate(c);
        stats.done++;
    }
}

// Do what is due on one active connection. True: there is more to do at once.
static bool advance(struct connection *c, int64_t time) {
    if (time < c->due_ns || c->out_length > MAX_QUEUED)
        return false;
    if (c->work == LATE_REPLY) {
        deactivate(c);
        stats.done++;
        reply(c, answer, answer_length);
    } else if (c->gap_ns == 0) {
        if (c->out_length > 0)
            return false; // the poller says when the socket takes more
        put_events(c, c->events_left < BATCH ? c->events_left : BATCH, time);
        return true;
    } else {
        c->due_ns += c->gap_ns;
        if (c->due_ns < time) // behind: do not catch up in a burst
            c->due_ns = time + c->gap_ns;
        put_events(c, 1, time);
    }
    return false;
}

// -- requests -----------------------------------------------------------------------------------

static bool field_in(const char *text, size_t length, const char *key, long *value) {
    const char *found = memmem(text, length, key, strlen(key));
    if (!found)
        return false;
    found += strlen(key);
    while (*found == ' ' || *found == ':')
        found++;
    *value = *found == 't' ? 1 : *found == 'f' ? 0 : atol(found);
    return true;
}

// A number or boolean of the JSON body. Not a parser: the key is looked for at both ends of the body.
static long field(const char *body, size_t length, const char *key, long otherwise) {
    size_t window = length < FIELD_WINDOW ? length : FIELD_WINDOW;
    long value;
    if (field_in(body, window, key, &value) || field_in(body + length - window, window, key, &value))
        return value;
    return otherwise;
}

static void answer_post(struct connection *c, const char *body, size_t length) {
    int64_t time = now_ns(), silence_ns = field(body, length, "\"top_k\"", 0) * NS_PER_MS;
    if (field(body, length, "\"stream\"", 0)) {
        c->events_left = field(body, length, "\"max_tokens\"", 100);
        c->gap_ns = field(body, length, "\"seed\"", 0) * NS_PER_US;
        c->due_ns = time + silence_ns;
        activate(c, STREAMING);
        put(c, STREAM_HEAD, sizeof STREAM_HEAD - 1);
        if (silence_ns == 0 && c->gap_ns > 0) {
            put_events(c, 1, time);
            c->due_ns = time + (int64_t)((double)c->gap_ns * (0.05 + 0.95 * drand48())); // spread the streams
        }
    } else if (silence_ns > 0) {
        c->due_ns = time + silence_ns;
        activate(c, LATE_REPLY);
    } else {
        reply(c, answer, answer_length);
    }
}

static void answer_stats(struct connection *c) {
    char text[512];
    int length =
        snprintf(text, sizeof text,
                 "{\"requests\":%" PRIu64 ",\"done\":%" PRIu64 ",\"aborted\":%" PRIu64
                 ",\"active\":%d,\"events\":%" PRIu64 ",\"last_abort_ns\":%" PRId64 "}",
                 stats.requests, stats.done, stats.aborted, active_count, stats.events, stats.last_abort_ns);
    reply(c, text, (size_t)length);
}

static void answer_request(struct connection *c, const char *head, const char *body, size_t length) {
    if (!strncmp(head, "GET /stats", 10)) {
        answer_stats(c);
    } else if (!strncmp(head, "GET /reset", 10)) {
        memset(&stats, 0, sizeof stats);
        reply(c, "{}", 2);
    } else if (!strncmp(head, "GET ", 4)) { // /v1/models, /health, a router's questions
        reply(c, MODELS, sizeof MODELS - 1);
    } else {
        stats.requests++;
        answer_post(c, body, length);
    }
}

// Length of the first whole request in the buffer, 0 where there is none, -1 where it will never be.
static ssize_t whole_request(struct connection *c, size_t *head_length) {
    char *end = memmem(c->in, c->in_length, "\r\n\r\n", 4);
    if (!end)
        return c->in_length < READ_STEP ? 0 : -1;
    *head_length = (size_t)(end - c->in) + 4;
    *end = 0; // end of text for strcasestr, put back below
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    bool chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked") != NULL;
    size_t body = length ? strtoul(length + 17, NULL, 10) : 0;
    *end = '\r';
    if (chunked) { // one request at a time: its end is the end of the buffer
        bool ended = c->in_length >= *head_length + 5 && !memcmp(c->in + c->in_length - 5, "0\r\n\r\n", 5);
        return ended ? (ssize_t)c->in_length : 0;
    }
    if (body > MAX_REQUEST)
        return -1;
    return c->in_length >= *head_length + body ? (ssize_t)(*head_length + body) : 0;
}

// -- connections --------------------------------------------------------------------------------

static void drop(struct connection *c) {
    if (c->work != IDLE) {
        deactivate(c);
        stats.aborted++;
        stats.last_abort_ns = now_ns();
    }
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

// Read what is there. False: the peer is gone.
static bool fill(struct connection *c) {
    for (;;) {
        if (c->in_room - c->in_length <= READ_STEP) { // always room for a 0 at the end
            c->in_room = c->in_room * 2 + 2 * READ_STEP;
            c->in = must(realloc(c->in, c->in_room));
        }
        ssize_t got = recv(c->fd, c->in + c->in_length, READ_STEP, 0);
        if (got == 0)
            return false;
        if (got < 0)
            return errno == EAGAIN;
        c->in_length += (size_t)got;
        if (c->in_length > MAX_REQUEST + READ_STEP)
            return false;
        if (got < READ_STEP)
            return true;
    }
}

static void take(struct connection *c) {
    if (!fill(c)) {
        drop(c);
        return;
    }
    while (c->work == IDLE && c->in_length > 0) {
        size_t head = 0;
        ssize_t whole = whole_request(c, &head);
        if (whole < 0)
            drop(c);
        if (whole <= 0)
            return;
        c->in[c->in_length] = 0;
        answer_request(c, c->in, c->in + head, (size_t)whole - head);
        c->in_length -= (size_t)whole;
        memmove(c->in, c->in + whole, c->in_length);
    }
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = must(calloc(1, sizeof *c));
        c->fd = fd;
        connections[fd] = c;
        struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted);
    }
}

static void serve(int listener) {
    static struct epoll_event ready[MAX_EVENTS];
    for (bool more = false;;) {
        int count = epoll_wait(poller, ready, MAX_EVENTS, more ? 0 : active_count ? 1 : -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener) {
                accept_all(listener);
                continue;
            }
            struct connection *c = connections[ready[i].data.fd];
            if (!c)
                continue;
            if (ready[i].events & (EPOLLERR | EPOLLHUP)) {
                drop(c);
                continue;
            }
            if (ready[i].events & EPOLLOUT)
                put_rest(c);
            if (ready[i].events & (EPOLLIN | EPOLLRDHUP))
                take(c);
        }
        int64_t time = now_ns();
        more = false;
        for (int i = active_count - 1; i >= 0; i--) // backwards: `advance` may take the entry out
            more |= advance(active[i], time);
    }
}

// -- start --------------------------------------------------------------------------------------

static void make_texts(void) {
    char data[EVENT_BYTES];
    int length = snprintf(data, sizeof data,
                          "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":"
                          "\"chat.completion.chunk\",\"created\":1763827200,\"model\":\"m\",\"choices\":[{"
                          "\"index\":0,\"delta\":{\"content\":\"@T0000000000000000 tok\"},\"logprobs\":null,"
                          "\"finish_reason\":null,\"token_ids\":null}]}\n\n");
    event_length = (size_t)snprintf(event, sizeof event, "%x\r\n%s\r\n", (unsigned)length, data);
    stamp_at = (size_t)((char *)memmem(event, event_length, "@T", 2) - event) + 2;
    answer_length = (size_t)snprintf(
        answer, sizeof answer,
        "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1763827200,"
        "\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%0*d\"},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,"
        "\"total_tokens\":110,\"completion_tokens\":100}}",
        720, 7);
}

static int listen_on(int port) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096) ||
        getsockname(listener, (struct sockaddr *)&address, &size)) {
        perror("backend: listen");
        exit(1);
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fputs("usage: backend PORT\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL); // never outlive the benchmark that started us
    make_texts();
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(atoi(argv[1]));
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted);
    serve(listener);
}
