/* SPDX-License-Identifier: Apache-2.0 */
/* sanitizer - whether this file is compiled with AddressSanitizer or ThreadSanitizer; gcc and clang say so
 * differently. */
#ifndef KVASIR_BASE_SANITIZER_H
#define KVASIR_BASE_SANITIZER_H

#if defined(__has_feature) // clang
#if __has_feature(address_sanitizer)
#define SANITIZES_ADDRESS 1
#endif
#if __has_feature(thread_sanitizer)
#define SANITIZES_THREAD 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) // gcc
#define SANITIZES_ADDRESS 1
#endif
#if defined(__SANITIZE_THREAD__)
#define SANITIZES_THREAD 1
#endif
#ifndef SANITIZES_ADDRESS
#define SANITIZES_ADDRESS 0
#endif
#ifndef SANITIZES_THREAD
#define SANITIZES_THREAD 0
#endif

#endif
