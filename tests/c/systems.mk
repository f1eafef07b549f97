# The other systems' files of ext/sockopt, on a fake kernel that answers as a
# BSD does. bsd/ holds the headers that this system has not.
.DEFAULT_GOAL := test
SYSTEMS = darwin freebsd netbsd openbsd
PROGRAMS += $(SYSTEMS)

SYSTEM_OBJECTS = $(SYSTEMS:%=$(DIR)/sockopt/%.o)
SYSTEM_NAMES = setsockopt getsockopt getsockname getpeername socket close ioctl
SYSTEM_WRAP = $(SYSTEM_NAMES:%=-Wl$(comma)--wrap=%)
SYSTEM_ALLOWED = __errno_location _GLOBAL_OFFSET_TABLE_ __stack_chk_fail \
	$(SYSTEM_NAMES) kevent kqueue memcpy memset sysctlbyname

$(SYSTEM_OBJECTS) $(DIR)/fake_bsd.o: CFLAGS += -Ibsd
$(SYSTEM_OBJECTS) $(DIR)/fake_bsd.o: $(wildcard bsd/*/*.h)

$(SYSTEMS:%=$(DIR)/test_%): $(DIR)/test_%: $(DIR)/test_%.o \
		$(DIR)/fake_bsd.o $(DIR)/core/policy.o $(DIR)/core/liveness.o \
		$(DIR)/sockopt/%.o
	$Q$(CC) $(CFLAGS) $^ $(SYSTEM_WRAP) -o $@

# recv, poll, ioctl and the rest must not even be linked.
symbols: system-symbols
.PHONY: system-symbols
system-symbols: $(SYSTEM_OBJECTS)
	@nm -u $^ | sed -n 's/^ *U //p' | sort -u | grep -v '^ka_' | \
	grep -vxF "$$(printf '%s\n' $(SYSTEM_ALLOWED))" && \
	{ echo "ext/sockopt calls what it must not"; exit 1; } || \
	echo "symbols of other systems: 1 passed"
