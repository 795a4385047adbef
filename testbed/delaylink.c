/* A long line between two TUN devices, in user space: where the kernel has no netem.
 *
 *   delaylink TUN_A TUN_B DELAY_MS RATE_MBIT [LOSS_PERCENT [QUEUE_MS]]
 *
 * Each direction has a rate, a queue that drops its tail beyond so many milliseconds (200), a one-way delay, and a loss by chance (the same
 * chance in each run). Needs CAP_NET_ADMIN; makes the devices, and says "up" when they are there. Ends when it is killed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define CAPACITY 65536
#define SECOND 1000000000LL

struct packet {
    long long due;
    int length;
    unsigned char *bytes;
};

struct direction {
    struct packet queue[CAPACITY];
    unsigned head, tail;
    long long free_at;
};

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static int tun(const char *name) {
    struct ifreq request;
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (device < 0 || ioctl(device, TUNSETIFF, &request) < 0) {
        perror(name);
        exit(1);
    }
    return device;
}

/* Delivers what is due; returns when the next packet is, or 0. */
static long long deliver(struct direction *way, int device, long long time, int *full) {
    while (way->head != way->tail) {
        struct packet *packet = &way->queue[way->head % CAPACITY];
        if (packet->due > time) return packet->due;
        if (write(device, packet->bytes, packet->length) < 0 && errno == EAGAIN) {
            *full = 1;
            return packet->due;
        }
        free(packet->bytes);
        way->head++;
    }
    return 0;
}

int main(int count, char **arguments) {
    static unsigned char buffer[65536];
    if (count < 5) {
        fprintf(stderr, "usage: delaylink TUN_A TUN_B DELAY_MS RATE_MBIT [LOSS_PERCENT [QUEUE_MS]]\n");
        return 2;
    }
    int devices[2] = {tun(arguments[1]), tun(arguments[2])};
    double delay = atof(arguments[3]) * 1e6, rate = atof(arguments[4]) * 1e6 / 8;
    double loss = count > 5 ? atof(arguments[5]) / 100 : 0;
    long long longest_queue = (count > 6 ? atof(arguments[6]) : 200) * 1e6;
    struct direction *ways = calloc(2, sizeof *ways);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (!ways || timer < 0) return 1;
    srand48(1);
    printf("up\n");
    fflush(stdout);
    for (;;) {
        long long time = now(), next = 0;
        int full = 0;
        for (int i = 0; i < 2; i++) {
            long long due = deliver(&ways[i], devices[1 - i], time, &full);
            if (due && (!next || due < next)) next = due;
        }
        struct itimerspec alarm;
        memset(&alarm, 0, sizeof alarm);
        if (next) {
            if (next <= time || full) next = time + 200000;
            alarm.it_value.tv_sec = next / SECOND;
            alarm.it_value.tv_nsec = next % SECOND;
        }
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &alarm, 0);
        struct pollfd ready[3] = {{devices[0], POLLIN, 0}, {devices[1], POLLIN, 0}, {timer, POLLIN, 0}};
        poll(ready, 3, -1);
        if (ready[2].revents) {
            unsigned long long expired;
            if (read(timer, &expired, sizeof expired) < 0 && errno != EAGAIN) return 1;
        }
        for (int i = 0; i < 2; i++) {
            if (!(ready[i].revents & POLLIN)) continue;
            for (int burst = 0; burst < 256; burst++) {
                int length = read(devices[i], buffer, sizeof buffer);
                if (length <= 0) break;
                struct direction *way = &ways[i];
                time = now();
                if (way->free_at < time) way->free_at = time;
                if (way->free_at - time > longest_queue || way->tail - way->head >= CAPACITY || (loss > 0 && drand48() < loss)) continue;
                way->free_at += (long long)(length / rate * 1e9);
                struct packet *packet = &way->queue[way->tail % CAPACITY];
                packet->bytes = malloc(length);
                if (!packet->bytes) continue;
                memcpy(packet->bytes, buffer, length);
                packet->length = length;
                packet->due = way->free_at + (long long)delay;
                way->tail++;
            }
        }
    }
}
