# windows.mk - the tests of ext/sockopt/windows.c and of the watcher over it,
# part of Makefile.
#
# WINSOCK_FAKED run over fake_winsock.c on every machine, with the headers of
# winsock/. `make wine` builds the same for
# Windows with mingw-w64, beside tests of real sockets and the portable ones
# of the core, and runs them under wine.

MINGW ?= x86_64-w64-mingw32-gcc
WINE ?= wine
WINSOCK_FAKED = windows_options windows_info windows_duplicate windows_watch
# With a clock and threads of its own, as the tests are.
WINSOCK_WATCHER = watcher ward deed ending pace sample judge discover ring table table_scan none
PROGRAMS += $(WINSOCK_FAKED) atomics own_atomics

# Winsock's functions under names of the fake's own.
RENAMED = setsockopt getsockopt WSAIoctl socket closesocket WSAStartup WSACleanup \
	WSAGetLastError WSAPoll ioctlsocket getpeername getsockname WSADuplicateSocketW WSASocketW \
	shutdown ntohs
RENAME = $(foreach name,$(RENAMED),-D$(name)=fake_$(name))

$(DIR)/winsock/%.o: %.c $(HEADERS) $(wildcard winsock/*.h $(EXT)/sockopt/windows*)
	@mkdir -p $(@D)
	$Q$(CC) $(CFLAGS) -D_WIN32 -DKA_NAMED_BY_ENDS=1 -Iwinsock $(RENAME) -c $< -o $@

$(DIR)/winsock/%.o: $(EXT)/core/%.c $(HEADERS)
	@mkdir -p $(@D)
	$Q$(CC) $(CFLAGS) -D_WIN32 -DKA_NAMED_BY_ENDS=1 -Iwinsock $(RENAME) -c $< -o $@

$(DIR)/winsock/none.o: $(EXT)/diag/none.c $(HEADERS)
	@mkdir -p $(@D)
	$Q$(CC) $(CFLAGS) -D_WIN32 -c $< -o $@

$(DIR)/test_windows_watch: $(WINSOCK_WATCHER:%=$(DIR)/winsock/%.o)
$(WINSOCK_FAKED:%=$(DIR)/test_%): $(DIR)/test_%: $(DIR)/winsock/test_%.o \
		$(DIR)/winsock/fake_winsock.o $(DIR)/winsock/policy.o $(DIR)/winsock/liveness.o
	$Q$(CC) $(CFLAGS) $^ -o $@

# atomics.h, and what stands in for the compiler's own.
$(DIR)/test_atomics: $(DIR)/test_atomics.o $(DIR)/core/monitor_posix.o $(DIR)/core/os_posix.o
	$Q$(CC) $(CFLAGS) $^ -pthread -o $@

$(DIR)/test_own_atomics: test_atomics.c $(DIR)/core/monitor_posix.o $(DIR)/core/os_posix.o $(HEADERS)
	$Q$(CC) $(CFLAGS) -D_GNU_SOURCE -DKA_NO_C11_ATOMICS $(filter %.c %.o,$^) -pthread -o $@

# ---- for Windows, under wine ------------------------------------------------

WINE_PORTABLE = table table_model table_memory table_threads clock ring judge atomics
WINE_REAL = windows_sockets windows_loop windows_reserve windows_ward
WINE_ALL = $(WINSOCK_FAKED) $(WINE_PORTABLE) $(WINE_REAL)

EXE = $(OUT)/mingw
WINE_CORE = $(filter-out %_posix.c,$(wildcard $(EXT)/core/*.c)) $(EXT)/poll/pollfallback.c \
	$(EXT)/sockopt/windows.c $(EXT)/diag/none.c
WINE_HEADERS = $(HEADERS) windows.mk
# With the compiler's atomics, and with those of ext/core/atomics.h.
KINDS = c11 own
ATOMICS_own = -DKA_NO_C11_ATOMICS

define wine_rules
$(EXE)/$(1)/core.a: $(WINE_CORE) $(WINE_HEADERS)
	@mkdir -p $(EXE)/$(1)/core && rm -f $$@
	$$Qfor file in $(WINE_CORE); do \
		$(MINGW) $(BASE) -O2 -D_WIN32_WINNT=0x0A00 $(ATOMICS_$(1)) -c $$$$file \
			-o $(EXE)/$(1)/core/$$$$(basename $$$$file .c).o || exit 1; \
	done
	$$Qx86_64-w64-mingw32-ar rcs $$@ $(EXE)/$(1)/core/*.o

$(WINSOCK_FAKED:%=$(EXE)/$(1)/test_%.exe): $(EXE)/$(1)/test_%.exe: test_%.c fake_winsock.c \
		$(EXE)/$(1)/core.a
	$$Q$(MINGW) $(BASE) -O2 -D_WIN32_WINNT=0x0A00 $(ATOMICS_$(1)) -D_GNU_SOURCE \
		-DWINSOCK_API_LINKAGE= $(RENAME) $$^ -o $$@

$(WINE_PORTABLE:%=$(EXE)/$(1)/test_%.exe) $(WINE_REAL:%=$(EXE)/$(1)/test_%.exe): \
		$(EXE)/$(1)/test_%.exe: test_%.c $(EXE)/$(1)/core.a
	$$Q$(MINGW) $(BASE) -O2 -D_WIN32_WINNT=0x0A00 $(ATOMICS_$(1)) -D_GNU_SOURCE \
		$$(if $$(findstring _memory,$$*),$$(MEMORY)) $$^ -static -pthread -lws2_32 -o $$@
endef
$(foreach kind,$(KINDS),$(eval $(call wine_rules,$(kind))))

.PHONY: wine wine-build
wine-build: $(foreach kind,$(KINDS),$(WINE_ALL:%=$(EXE)/$(kind)/test_%.exe))

# The server stays from one program to the next: one that is on its way out
# has been seen to lose a program's output.
wine: wine-build
	@wineserver -p60; for kind in $(KINDS); do \
		echo "wine, $$kind atomics:"; \
		WINEDEBUG=-all JOBS=1 ./total.sh ./under_wine.sh $(foreach test,$(WINE_ALL),$(EXE)/$$kind/test_$(test).exe) || exit 1; \
	done

# ---- as Microsoft's compiler sees it ----------------------------------------

# Syntax and types, by clang in the manner of Microsoft's compiler, with
# nothing but the C library's names that the core may use (msvc/) and no C11
# atomics. os_windows.c and monitor_windows.c want the real headers, which
# only mingw-w64 and zig have here.
MSVC_FILES = $(filter-out %_posix.c %/os_windows.c %/monitor_windows.c,$(wildcard $(EXT)/core/*.c)) \
	$(EXT)/poll/pollfallback.c $(EXT)/diag/none.c $(EXT)/sockopt/windows.c $(EXT)/sockopt/none.c

.PHONY: msvc
msvc:
	$Qfor target in x86_64 aarch64; do \
		for file in $(MSVC_FILES); do \
			$(CLANG) --target=$$target-pc-windows-msvc -std=c11 -fms-compatibility -fms-extensions \
				-fms-compatibility-version=19.35 -nostdinc -isystem msvc -isystem winsock \
				-include msvc/only_standard.h -D__STDC_NO_ATOMICS__=1 -I$(EXT)/include -I$(EXT)/sockopt \
				-I$(EXT)/core -I$(EXT)/poll -I$(EXT)/diag -Wall -Wextra -Wpedantic -Wgnu -Wvla -Werror \
				-Wno-builtin-requires-header -Wno-pragma-once-outside-header -Wno-microsoft-include \
				-Wno-language-extension-token -fsyntax-only $$file || exit 1; \
		done; \
	done
	@echo "msvc: $(words $(MSVC_FILES)) passed"

# ---- the other way round ----------------------------------------------------

.PHONY: windows-bites
windows-bites:
	@CC="$(CC)" ./windows_bites.sh $(EXT) $(OUT)/windows-bites "$(RENAME)"

bites: windows-bites
